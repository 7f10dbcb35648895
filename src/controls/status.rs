// SPDX-License-Identifier: GPL-2.0

//! What `dmsetup status` and `dmsetup table` print, and what there is to know about the metadata.

use super::values::{now, Now, VALUES};
use crate::{
    dm::{target::StatusKind, text::Text},
    pure::{
        copies::CopyState,
        format::layout::{CopyId, COPIES, SLOTS},
        health::Member,
        scan::State as ScanState,
        settings::SETTINGS,
        store::SpareSet,
        units::SpareId,
    },
    target::{Kind, Remap, State},
};
use core::fmt::{self, Write};
use kernel::sync::atomic::Relaxed;

/// The status of a device, as device mapper asks for it.
pub(crate) fn status(remap: &Remap, kind: StatusKind, out: &mut Text<'_>) {
    // A text that does not fit is noticed by the core.
    let _ = match kind {
        StatusKind::Info => info(remap, out),
        StatusKind::Table => write!(out, "{}", Line::new(remap)),
        StatusKind::Measurement => measurement(remap, out),
    };
}

/// The fields of v3 in their places, then what came later as `key=value`.
///
/// ```text
/// v4.0 <remapped>/<room> <pending>/<room> <used>/<room> health=<1|0> errors=W<n>:R<n>
/// auto_remaps=<n> manual_remaps=<n> scan=<n>% persist=<state> last_save=<seconds>
/// version=<n> copies=<good>/<all> spares=<n> jobs=<n> retired=<n> auto=<on|off|halted|maintenance> away=<n>
/// scan_state=<idle|running|paused> main_health=<n> spare_health=<n>[,<n>...] full_in=<days|never>
/// full=<no|spares|table|both>
/// ```
fn info(remap: &Remap, out: &mut Text<'_>) -> fmt::Result {
    now(remap, |now| {
        let (totals, room, info) = (now.state.table.totals(), now.state.room(), &now.state.info);
        write!(
            out,
            "v4.0 {}/{room} {}/{room} {}/{room} health={} errors=W{}:R{} auto_remaps={} \
             manual_remaps={} scan={}% persist={} last_save={} version={} copies={}/{} \
             spares={} jobs={} retired={} auto={} away={} scan_state={} main_health={}",
            totals.remapped,
            totals.pending,
            now.state.used(),
            u8::from(now.is_healthy()),
            now.errors.main[0].saturating_add(now.errors.spare[0]),
            now.errors.main[1].saturating_add(now.errors.spare[1]),
            info.statistics.auto_remaps,
            info.statistics.manual_remaps,
            remap.scan_percent(),
            now.persist(),
            info.last_save,
            info.version,
            now.good_copies(),
            now.copies(),
            now.spares(),
            now.state.jobs.len(),
            totals.retired,
            now.auto,
            info.away.iter().count(),
            remap.scan_state().name(),
            now.scores.main,
        )?;
        for (i, score) in now.scores.spares.iter().flatten().enumerate() {
            write!(out, "{}{score}", if i == 0 { " spare_health=" } else { "," })?;
        }
        write!(out, " full_in={} full={}", now.full_in(), now.full())
    })
}

/// The arguments of a table line that loads this set again. What is for a new set only, and what is
/// kept in the metadata, is not part of it.
pub(crate) struct Line<'a> {
    remap: &'a Remap,
    members: SpareSet,
}

impl<'a> Line<'a> {
    /// For the set as it is.
    pub(crate) fn new(remap: &'a Remap) -> Self {
        let mut members = SpareSet::NONE;
        remap.each_spare().for_each(|(id, _)| members.add(id));
        Self { remap, members }
    }

    /// For a set of these members.
    pub(crate) fn of(remap: &'a Remap, members: SpareSet) -> Self {
        Self { remap, members }
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remap = self.remap;
        let all = || self.members.iter().filter_map(|id| Some((id, remap.spare(id)?)));
        write!(f, "{}", remap.main.device)?;
        // What the line names a part of stands first.
        let first = |part: bool| all().find(move |(_, spare)| spare.part || !part);
        let first = first(true).or(first(false)).map(|(id, _)| id);
        if let Some(spare) = first.and_then(|id| remap.spare(id)) {
            write!(f, " {}", spare.device)?;
            if spare.part {
                write!(f, " {} {}", spare.start, spare.len)?;
            }
        }
        let more = || all().filter(|(id, _)| Some(*id) != first);
        let start = remap.main.start != 0;
        let degraded = remap.is_degraded();
        let absent = remap.absent();
        let absent = || absent.iter().flatten();
        let pairs = usize::from(start) + more().count() + absent().count();
        match 2 * pairs + usize::from(degraded) {
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
        absent().try_for_each(|uuid| write!(f, " absent {uuid}"))
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
    let known_by = remap.identity.lock().by;
    now(remap, |now| {
        for value in VALUES {
            write!(out, "{} ", value.name)?;
            (value.write)(now, out)?;
            writeln!(out)?;
        }
        if let Some(by) = known_by {
            writeln!(out, "match main {by}")?;
        }
        write_scan(now, out)?;
        write_spares(now, out)?;
        write_jobs(now.state, out)
    })?;
    out.write_str("last_error ")?;
    remap.write_last_error(out)?;
    writeln!(out)
}

/// The spares, each with its copies of the metadata.
fn write_spares(now: &Now<'_>, out: &mut dyn Write) -> fmt::Result {
    let info = &now.state.info;
    for i in now.members().iter() {
        let uuid = info.members.get(usize::from(i.0)).copied().unwrap_or_default();
        let word = if info.away.has(i) { "away" } else { "active" };
        match now.remap.spare(i) {
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
            match now.state.version_of(id) {
                0 => writeln!(out)?,
                version => writeln!(out, " version {version}")?,
            }
        }
    }
    Ok(())
}

/// The moves and checks that run, and those that have ended.
fn write_jobs(state: &State, out: &mut dyn Write) -> fmt::Result {
    for job in &state.jobs {
        if let Kind::Check(level) = job.kind {
            writeln!(out, "running check {}", level.name())?;
            continue;
        }
        if let Kind::Members(roster) = job.kind {
            let lives = |id: SpareId| state.table.totals().on_spare.get(usize::from(id.0)).copied();
            let left = roster.leaves.and_then(lives).unwrap_or_default().0;
            let moved = job.moved.load(Relaxed);
            // What is copied to who joins lives where it was until the end.
            let all = if roster.joins.is_some() { left.max(moved) } else { left + moved };
            writeln!(out, "running {} done {moved}/{all}", roster.name())?;
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
    Ok(())
}

/// Where the scan is, what the last one found, and how healthy the spares are.
fn write_scan(now: &Now<'_>, out: &mut dyn Write) -> fmt::Result {
    let run = now.remap.scan_run();
    match Member::of_index(run.device).filter(|_| run.state != ScanState::Idle) {
        Some(Member::Main) => writeln!(out, "scan_at main sector {}", run.position)?,
        Some(Member::Spare(id)) => writeln!(out, "scan_at spare {id} sector {}", run.position)?,
        None => {}
    }
    writeln!(out, "scan_found unreadable {} slow {}", run.unreadable, run.slow)?;
    writeln!(out, "scan_times started {} ended {}", run.started, run.ended)?;
    for (member, score) in now.scores.each() {
        if let Member::Spare(id) = member {
            writeln!(out, "spare_health {id} {score}")?;
        }
    }
    Ok(())
}

/// A setting and its value, or all of them, a line each.
pub(crate) fn write_settings(
    remap: &Remap,
    only: Option<&str>,
    out: &mut dyn Write,
) -> fmt::Result {
    let (values, limits) = (remap.state.lock().info.settings.clone(), remap.limits());
    for setting in SETTINGS.iter().filter(|s| only.is_none_or(|name| s.name == name)) {
        if only.is_none() {
            write!(out, "{} ", setting.name)?;
        }
        setting.write_value(values.in_force(setting, &limits), out)?;
        match only {
            Some(_) => writeln!(out)?,
            None => writeln!(out, " {}", setting.unit)?,
        }
    }
    Ok(())
}
