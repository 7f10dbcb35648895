// SPDX-License-Identifier: GPL-2.0

//! What `dmsetup status` and `dmsetup table` print, and what there is to know about the metadata.

use crate::{
    dm::{target::StatusKind, text::Text},
    pure::{
        commit::Persist,
        copies::CopyState,
        format::{
            header::text,
            layout::{CopyId, COPIES, SLOTS},
        },
        health::Member,
        scan::State as ScanState,
        settings::{self, SETTINGS},
    },
    target::{Kind, Remap, State},
};
use core::fmt::{self, Write};

/// The status of a device, as device mapper asks for it.
pub(crate) fn status(remap: &Remap, kind: StatusKind, out: &mut Text<'_>) {
    // A text that does not fit is noticed by the core.
    let _ = match kind {
        StatusKind::Info => info(remap, out),
        StatusKind::Table => write!(out, "{}", Line(remap)),
        StatusKind::Measurement => measurement(remap, out),
    };
}

/// The fields of v3 in their places, then what came later as `key=value`.
///
/// ```text
/// v4.0 <remapped>/<room> <pending>/<room> <used>/<room> health=<1|0> errors=W<n>:R<n>
/// auto_remaps=<n> manual_remaps=<n> scan=<n>% persist=<state> last_save=<seconds>
/// version=<n> copies=<good>/<all> spares=<n> jobs=<n> retired=<n> auto=<on|off|halted> away=<n>
/// scan_state=<idle|running|paused> main_health=<n> spare_health=<n>[,<n>...] full_in=<days|never>
/// ```
fn info(remap: &Remap, out: &mut Text<'_>) -> fmt::Result {
    let auto = remap.auto_word();
    let (percent, run) = (remap.scan_percent(), remap.scan_run());
    let state = remap.state.lock();
    let errors = state.info.statistics.errors(&remap.counters.errors());
    let (totals, room, info) = (state.table.totals(), state.room(), &state.info);
    let members = info.active.with(info.away).iter().count();
    let copies = COPIES * members;
    let good = info.copies.in_state(CopyState::Good).count();
    let healthy = state.live
        && totals.pending.0 == 0
        && info.persist == Persist::Enabled
        && auto != "halted"
        && !remap.has_bad_device();
    let scores = remap.scores(&state);
    let persist = if remap.writable { info.persist.name() } else { "readonly" };
    write!(
        out,
        "v4.0 {}/{room} {}/{room} {}/{room} health={} errors=W{}:R{} auto_remaps={} \
         manual_remaps={} scan={percent}% persist={persist} last_save={} version={} copies={good}/{copies} \
         spares={members} jobs={} retired={} auto={auto} away={} scan_state={} main_health={}",
        totals.remapped,
        totals.pending,
        state.used(),
        u8::from(healthy),
        errors.main[0].saturating_add(errors.spare[0]),
        errors.main[1].saturating_add(errors.spare[1]),
        info.statistics.auto_remaps,
        info.statistics.manual_remaps,
        info.last_save,
        info.version,
        state.jobs.len(),
        totals.retired,
        info.away.iter().count(),
        run.state.name(),
        scores.main,
    )?;
    for (i, score) in scores.spares.iter().flatten().enumerate() {
        write!(out, "{}{score}", if i == 0 { " spare_health=" } else { "," })?;
    }
    match scores.full_in {
        Some(days) => write!(out, " full_in={days}"),
        None => out.write_str(" full_in=never"),
    }
}

/// The arguments of a table line that loads this set again. What is for a new set only, and what is
/// kept in the metadata, is not part of it.
pub(crate) struct Line<'a>(pub(crate) &'a Remap);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remap = self.0;
        write!(f, "{}", remap.main.device)?;
        // What the line names a part of stands first.
        let first = |part: bool| remap.each_spare().find(move |(_, spare)| spare.part || !part);
        let first = first(true).or(first(false)).map(|(id, _)| id);
        if let Some(spare) = first.and_then(|id| remap.spare(id)) {
            write!(f, " {}", spare.device)?;
            if spare.part {
                write!(f, " {} {}", spare.start, spare.len)?;
            }
        }
        let more = || remap.each_spare().filter(|(id, _)| Some(*id) != first);
        let start = remap.main.start != 0;
        let degraded = remap.is_degraded();
        match 2 * usize::from(start) + usize::from(degraded) + 2 * more().count() {
            0 => return Ok(()),
            words => write!(f, " {words}")?,
        }
        for (_, spare) in more() {
            write!(f, " spare {}", spare.device)?;
        }
        if start {
            write!(f, " main_start {}", remap.main.start)?;
        }
        if degraded {
            f.write_str(" degraded")?;
        }
        Ok(())
    }
}

/// What the integrity measurement architecture records of a table, in the way of the other targets.
fn measurement(remap: &Remap, out: &mut Text<'_>) -> fmt::Result {
    write!(
        out,
        "target_name=remap,target_version=4.0.0,main={},main_start={}",
        remap.main.device, remap.main.start
    )?;
    for (i, spare) in remap.each_spare() {
        write!(
            out,
            ",spare_{i}={},spare_{i}_start={},spare_{i}_length={}",
            spare.device, spare.start, spare.len
        )?;
    }
    let uuid = remap.state.lock().info.uuid;
    write!(out, ",set_uuid={uuid};")
}

/// What there is to know about the metadata, what runs, and what went wrong last, a line each.
pub(crate) fn metadata_status(remap: &Remap, out: &mut dyn Write) -> fmt::Result {
    let state = remap.state.lock();
    let info = &state.info;
    writeln!(out, "set {}", info.uuid)?;
    writeln!(out, "name {}", text(&info.name))?;
    writeln!(out, "version {}", info.version)?;
    writeln!(out, "history {:016x}", info.history)?;
    let persist = if remap.writable { info.persist.name() } else { "readonly" };
    writeln!(out, "persist {persist}")?;
    writeln!(out, "in_doubt {}", if info.in_doubt { "yes" } else { "no" })?;
    writeln!(out, "last_save {}", info.last_save)?;
    writeln!(out, "commits {}", info.statistics.commits)?;
    let statistics = &info.statistics;
    writeln!(out, "auto_remaps {}", statistics.auto_remaps)?;
    writeln!(out, "manual_remaps {}", statistics.manual_remaps)?;
    writeln!(out, "unremaps {}", statistics.unremaps)?;
    writeln!(out, "pending_marks {}", statistics.pending_marks)?;
    writeln!(out, "retired_places {}", statistics.retired_places)?;
    let errors = statistics.errors(&remap.counters.errors());
    writeln!(out, "main_errors write {} read {}", errors.main[0], errors.main[1])?;
    writeln!(out, "spare_errors write {} read {}", errors.spare[0], errors.spare[1])?;
    for i in info.active.with(info.away).iter() {
        let uuid = info.members.get(usize::from(i.0)).copied().unwrap_or_default();
        let word = if info.away.has(i) { "away" } else { "active" };
        match remap.spare(i) {
            Some(spare) => {
                writeln!(
                    out,
                    "spare {i} {} {}+{} {word} {uuid}",
                    spare.device, spare.start, spare.len
                )?;
            }
            None => writeln!(out, "spare {i} - {word} {uuid}")?,
        }
        for copy in 0..COPIES as u8 {
            let id = CopyId { spare: i, copy };
            let word = match info.copies.state(id) {
                CopyState::Absent => "absent",
                CopyState::Good => "good",
                CopyState::Stale => "stale",
                CopyState::Bad => "bad",
            };
            write!(out, "copy {i}.{copy} sector {} {word}", SLOTS[usize::from(copy)])?;
            if word == "good" {
                write!(out, " version {}", info.version)?;
            }
            writeln!(out)?;
        }
    }
    write_scan(remap, &state, out)?;
    let totals = state.table.totals();
    writeln!(
        out,
        "table {} entries, room for {} more, {} blocks",
        totals.extents,
        state.table.entries_left(),
        state.table.block_count()
    )?;
    for job in &state.jobs {
        if let Kind::Check(level) = job.kind {
            writeln!(out, "running check {}", level.name())?;
            continue;
        }
        writeln!(
            out,
            "running {} {}+{} done {}/{}",
            job.kind.name(),
            job.range.start,
            job.range.len,
            job.sectors_done(),
            job.range.len
        )?;
    }
    for ended in state.ended.iter().flatten() {
        match ended.kind {
            Kind::Check(level) => write!(out, "ended check {}", level.name())?,
            _ => write!(
                out,
                "ended {} {}+{} moved {} unreadable {}",
                ended.kind.name(),
                ended.range.start,
                ended.range.len,
                ended.moved,
                ended.unreadable
            )?,
        }
        match ended.result {
            Ok(()) => writeln!(out, " ok")?,
            Err(e) => writeln!(out, " {e:?}")?,
        }
    }
    drop(state);
    out.write_str("last_error ")?;
    remap.write_last_error(out)?;
    writeln!(out)
}

/// Where the scan is, what the last one found, and how healthy the devices are.
fn write_scan(remap: &Remap, state: &State, out: &mut dyn Write) -> fmt::Result {
    let run = remap.scan_run();
    write!(out, "scan {} {}%", run.state.name(), remap.scan_percent())?;
    match Member::of_index(run.device).filter(|_| run.state != ScanState::Idle) {
        Some(Member::Main) => write!(out, " main sector {}", run.position)?,
        Some(Member::Spare(id)) => write!(out, " spare {id} sector {}", run.position)?,
        None => {}
    }
    writeln!(out)?;
    writeln!(out, "scan_found unreadable {} slow {}", run.unreadable, run.slow)?;
    writeln!(out, "scan_times started {} ended {}", run.started, run.ended)?;
    writeln!(out, "scans {}", state.info.statistics.scans)?;
    let scores = remap.scores(state);
    for (member, score) in scores.each() {
        match member {
            Member::Main => writeln!(out, "health main {score}")?,
            Member::Spare(id) => writeln!(out, "health spare {id} {score}")?,
        }
    }
    match scores.full_in {
        Some(days) => writeln!(out, "full_in {days} days"),
        None => writeln!(out, "full_in never"),
    }
}

/// A setting and its value, or all of them, a line each.
pub(crate) fn write_settings(
    remap: &Remap,
    only: Option<&str>,
    out: &mut dyn Write,
) -> fmt::Result {
    let values = remap.state.lock().info.settings.clone();
    for setting in SETTINGS.iter().filter(|s| only.is_none_or(|name| s.name == name)) {
        let value = match setting.slot {
            settings::slot::REMAP_BLOCK => values.remap_block(&remap.limits()).0,
            _ => values.get(setting),
        };
        match only {
            Some(_) => writeln!(out, "{value}")?,
            None => writeln!(out, "{} {value} {}", setting.name, setting.unit)?,
        }
    }
    Ok(())
}
