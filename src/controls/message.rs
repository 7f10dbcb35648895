// SPDX-License-Identifier: GPL-2.0

//! `dmsetup message`: what each message does.
//!
//! The core hands a text to the caller only with success, and repeats a message whose text did not
//! fit. So an error is an errno, a line in the kernel log and `last_error` in `metadata_status`; and
//! a message that changes something writes no text, or a short one whose room it has seen first.

use super::status::{metadata_status, write_settings};
use crate::{
    dm::{
        io::{self, Io, Span, What},
        system::MemScope,
        target::Args,
        text::Text,
    },
    metadata,
    pure::{
        command::{Command, Hint, ScanOrder, COMMANDS},
        commit::{Metadata, Persist},
        entry::Mapping,
        format::{header::Header, layout::SLOT_BLOCKS, CommitKind},
        identity::{of_digits, set_path, set_serial},
        mem::{Block, KVec},
        settings::{self, Settings},
        units::{Extent, MainSector, Sectors, SpareId, SECTOR_SIZE},
        validate::Level,
    },
    target::{Job, Kind, Remap, Roster},
};
use core::fmt::Write;
use kernel::{
    prelude::*,
    sync::{Arc, ArcBorrow},
};

/// Moves of up to so many sectors are waited for; longer ones go on when the message has returned.
const SHORT: u64 = 2048;

/// The most words that a message may have.
const WORDS: usize = 8;

/// Handles a message.
pub(crate) fn message(
    this: ArcBorrow<'_, Remap>,
    args: &mut Args<'_>,
    out: &mut Text<'_>,
) -> Result {
    // Suspending waits for messages, and memory may wait for the suspended device.
    let _scope = MemScope::without_io();
    let words = core::iter::from_fn(|| args.next().transpose());
    run_words(this, words, out)
}

/// Carries out the message that these words are.
pub(super) fn run_words<'a>(
    this: ArcBorrow<'_, Remap>,
    from: impl Iterator<Item = Result<&'a str>>,
    out: &mut dyn Out,
) -> Result {
    let mut words = [""; WORDS];
    let mut n = 0;
    for word in from {
        let word = word.inspect_err(|_| {
            this.say_error(format_args!("the message is not text; 'help' lists the messages"));
        })?;
        let Some(slot) = words.get_mut(n) else {
            this.say_error(format_args!(
                "the message has too many words; 'help' lists the messages"
            ));
            return Err(EINVAL);
        };
        (*slot, n) = (word, n + 1);
    }
    let command = Command::parse(words.get(..n).unwrap_or_default()).map_err(|e| {
        this.say_error(format_args!("{e}"));
        EINVAL
    })?;
    run(this, &command, out)
}

/// Carries out a message.
fn run(this: ArcBorrow<'_, Remap>, command: &Command<'_>, out: &mut dyn Out) -> Result {
    match *command {
        Command::Remap(start, len) => start_move(this, Kind::Remap, start, len),
        Command::Unremap(start, len) => start_move(this, Kind::Unremap, start, len),
        Command::Clear => clear(this),
        Command::Verify(at) => verify(&this, at, out),
        Command::Table(from) => table(&this, from, out),
        Command::Save => save(this),
        Command::Restore => restore(this),
        Command::Repair => repair(this),
        Command::Check(level) => check(this, level),
        Command::Sync => sync(&this),
        Command::Stop => stop(&this),
        Command::Scan(order) => scan(this, order),
        Command::Set(name, value) => set(this, name, value),
        Command::Get(name) => get(&this, name, out),
        Command::Undo => undo(this),
        Command::SpareAdd(device, overwrite) => {
            let wish = Members { joins: Some(device), leaves: None, overwrite, lost: false };
            change_members(this, &wish)
        }
        Command::SpareRemove(device, lost) => {
            let leaves = Some(Some(device));
            change_members(this, &Members { joins: None, leaves, overwrite: false, lost })
        }
        Command::Migrate { from, to, overwrite, lost } => {
            let wish = Members { joins: Some(to), leaves: Some(from), overwrite, lost };
            change_members(this, &wish)
        }
        Command::MetadataStatus => written(metadata_status(&this, out.writer())),
        Command::Name(name) => {
            commit(this, CommitKind::Rename, |_| Ok(|header: &mut Header| header.set_name(name)))
        }
        Command::Identify(of, hint) => identify(this, of, hint),
        Command::IdentifyNew(digits) => identify_new(this, digits),
        Command::Ping => written(out.write_str("pong")),
        Command::Help => written(COMMANDS.iter().try_for_each(|(name, args, what)| {
            writeln!(out, "{name}{}{args}: {what}", if args.is_empty() { "" } else { " " })
        })),
    }
}

/// Where a message writes its text.
pub(crate) trait Out: Write {
    /// How many bytes still fit.
    fn room(&self) -> usize;

    /// This, for who only writes.
    fn writer(&mut self) -> &mut dyn Write;
}

impl Out for Text<'_> {
    fn room(&self) -> usize {
        Text::room(self)
    }

    fn writer(&mut self) -> &mut dyn Write {
        self
    }
}

fn written(result: core::fmt::Result) -> Result {
    result.map_err(|_| ENOMEM)
}

fn refuse_read_only(this: &Remap) -> Result {
    if this.writable {
        return Ok(());
    }
    this.say_error(format_args!("the table is read-only; load it for writing first"));
    Err(EROFS)
}

/// The range that a message names, checked.
fn range(this: &Remap, start: MainSector, len: Option<Sectors>) -> Result<Extent> {
    let block = this.block_sectors();
    let len = len.unwrap_or(block);
    let whole = this.main.len;
    let range = Extent::new(start, len).filter(|range| range.end().0 <= whole.0);
    let Some(range) = range else {
        this.say_error(format_args!(
            "{start}+{len} is not within the {whole} sectors of the device"
        ));
        return Err(EINVAL);
    };
    if (start.0 | len.0) & (block.0 - 1) != 0 {
        this.say_error(format_args!(
            "{start}+{len} is not a multiple of the logical block, {block} sectors"
        ));
        return Err(EINVAL);
    }
    Ok(range)
}

fn start_move(
    this: ArcBorrow<'_, Remap>,
    kind: Kind,
    start: MainSector,
    len: Option<Sectors>,
) -> Result {
    refuse_read_only(&this)?;
    let range = range(&this, start, len)?;
    if this.next_part(kind, range).is_none() {
        let (what, e) = match kind {
            Kind::Remap => ("all of it is remapped already", EEXIST),
            _ => ("nothing of it is remapped or pending", ENOENT),
        };
        this.say_error(format_args!("{} {}+{}: {what}", kind.name(), range.start, range.len));
        return Err(e);
    }
    let job = Remap::start(this, kind, range)?;
    if range.len.0 <= SHORT {
        return wait(&this, &job);
    }
    Ok(())
}

/// A change of the members, as a person has named them.
struct Members<'a> {
    joins: Option<&'a str>,
    /// The only one, if nobody is named.
    leaves: Option<Option<&'a str>>,
    overwrite: bool,
    lost: bool,
}

/// Waited for when there is little to move.
fn change_members(this: ArcBorrow<'_, Remap>, wish: &Members<'_>) -> Result {
    refuse_read_only(&this)?;
    this.change_members()?;
    let begun = begin_members(this, wish);
    if begun.is_err() {
        this.members_changed();
    }
    match begun? {
        Some(job) => wait(&this, &job),
        None => Ok(()),
    }
}

fn begin_members(this: ArcBorrow<'_, Remap>, wish: &Members<'_>) -> Result<Option<Arc<Job>>> {
    let leaves = match wish.leaves {
        Some(Some(name)) => Some(this.member_named(name)?),
        Some(None) => Some(this.only_member()?),
        None => None,
    };
    if let (Some(leaves), None) = (leaves, wish.joins) {
        this.can_do_without(leaves)?;
    }
    let joins = wish.joins.map(|path| this.open_candidate(path)).transpose()?;
    let roster = Roster { joins, leaves, overwrite: wish.overwrite, lost: wish.lost };
    let all = Extent::new(MainSector(0), this.main.len).ok_or(EINVAL)?;
    let state = this.state.lock();
    let moves = leaves.and_then(|id| state.table.totals().on_spare.get(usize::from(id.0)).copied());
    let short =
        state.table.block_count() <= SLOT_BLOCKS && moves.is_none_or(|sectors| sectors.0 <= SHORT);
    drop(state);
    let job = Remap::start(this, Kind::Members(roster), all)?;
    Ok(short.then_some(job))
}

fn wait(this: &Remap, job: &Job) -> Result {
    let mut state = this.state.lock();
    loop {
        if let Some(result) = job.outcome() {
            return result;
        }
        if this.job_ended.wait_interruptible(&mut state) {
            drop(state);
            this.say_error(format_args!(
                "not waited for any longer; the {} goes on",
                job.kind.name()
            ));
            return Err(EINTR);
        }
    }
}

fn clear(this: ArcBorrow<'_, Remap>) -> Result {
    refuse_read_only(&this)?;
    let totals = *this.state.lock().table.totals();
    if totals.extents == 0 {
        return Ok(());
    }
    let all = Extent::new(MainSector(0), this.main.len).ok_or(EINVAL)?;
    let job = Remap::start(this, Kind::Unremap, all)?;
    if totals.remapped.0 + totals.pending.0 <= SHORT && totals.extents <= 16 {
        return wait(&this, &job);
    }
    Ok(())
}

fn restore(this: ArcBorrow<'_, Remap>) -> Result {
    let all = Extent::new(MainSector(0), this.main.len).ok_or(EINVAL)?;
    let job = Remap::start(this, Kind::Restore, all)?;
    wait(&this, &job)
}

fn repair(this: ArcBorrow<'_, Remap>) -> Result {
    refuse_read_only(&this)?;
    let result = this.repair();
    // It may have left a doubt.
    Remap::ask_worker(this);
    result
}

/// Waited for unless the table is long.
fn check(this: ArcBorrow<'_, Remap>, level: Level) -> Result {
    let nothing = Extent { start: MainSector(0), len: Sectors(0) };
    let short = this.state.lock().table.block_count() <= SLOT_BLOCKS;
    let job = Remap::start(this, Kind::Check(level), nothing)?;
    if short {
        return wait(&this, &job);
    }
    Ok(())
}

fn stop(this: &Remap) -> Result {
    this.state.lock().jobs.iter().for_each(|job| job.stop());
    Ok(())
}

/// A commit for a person: with success everything is durable on every good copy. `prepare` looks at
/// what is, and gives what changes the header.
fn commit<U: Fn(&mut Header)>(
    this: ArcBorrow<'_, Remap>,
    kind: CommitKind,
    prepare: impl FnOnce(&Metadata) -> Result<U>,
) -> Result {
    refuse_read_only(&this)?;
    let mut guard = this.meta.lock();
    let open = !this.state.lock().closing;
    let Some(meta) = (*guard).as_mut().filter(|_| open) else {
        this.say_error(format_args!("the device is suspended; resume it first"));
        return Err(EBUSY);
    };
    let update = prepare(meta)?;
    let result = this.commit_for_person(meta, kind, update);
    let in_doubt = meta.in_doubt();
    drop(guard);
    if in_doubt {
        Remap::ask_worker(this);
    }
    result
}

/// Begins a scan, has it go on, pauses or stops it; what that comes to is durable.
fn scan(this: ArcBorrow<'_, Remap>, order: ScanOrder) -> Result {
    refuse_read_only(&this)?;
    let before = this.order_scan(order)?;
    let result = commit(this, CommitKind::Settings, |_| Ok(|_: &mut Header| ()));
    if result.is_err() {
        this.scan_refused(before);
    }
    Remap::wake_scan(this);
    result
}

fn save(this: ArcBorrow<'_, Remap>) -> Result {
    let failed = save_what_is(this)?;
    // Nothing was looked at that could not be committed; it can be now.
    if failed {
        save_what_is(this)?;
    }
    Ok(())
}

/// Gives whether nothing could be committed before.
fn save_what_is(this: ArcBorrow<'_, Remap>) -> Result<bool> {
    let mut failed = false;
    commit(this, CommitKind::Save, |meta| {
        failed = meta.persist() == Persist::Failed;
        let main = this.main_anew(meta);
        Ok(move |header: &mut Header| {
            header.raw_mut().main = main.unwrap_or(header.raw().main);
        })
    })?;
    Ok(failed)
}

/// Changes the settings of now.
fn change_settings(
    this: ArcBorrow<'_, Remap>,
    how: impl FnOnce(&mut Settings) -> core::result::Result<(), settings::SetError>,
) -> Result {
    let mut changed = (Settings::default(), Settings::default());
    commit(this, CommitKind::Settings, |meta| {
        let before = meta.settings();
        let mut settings = before.clone();
        how(&mut settings).map_err(|e| {
            this.say_error(format_args!("{e}"));
            EINVAL
        })?;
        changed = (before, settings.clone());
        Ok(move |header: &mut Header| settings.to_raw(&mut header.raw_mut().settings))
    })?;
    Remap::wake_scan(this);
    let (before, now) = &changed;
    if before != now {
        this.tell_of_settings(before, now);
    }
    Ok(())
}

/// Changes a setting, whoever asks for it.
pub(super) fn set(this: ArcBorrow<'_, Remap>, name: &str, value: &str) -> Result {
    let limits = this.limits();
    change_settings(this, |settings| settings.set([(name, value)], &limits).map_err(|(_, e)| e))
}

fn undo(this: ArcBorrow<'_, Remap>) -> Result {
    change_settings(this, Settings::undo)
}

fn identify(this: ArcBorrow<'_, Remap>, of: Option<SpareId>, hint: Hint<'_>) -> Result {
    commit(this, CommitKind::Identity, |meta| {
        let spare = of.filter(|spare| !meta.active().with(meta.away()).has(*spare));
        if let Some(spare) = spare {
            this.say_error(format_args!(
                "the set has no spare {spare}; 'metadata_status' has them"
            ));
            return Err(ENOENT);
        }
        Ok(move |header: &mut Header| {
            let raw = header.raw_mut();
            let print = match of {
                None => Some(&mut raw.main),
                Some(spare) => raw.fingerprints.get_mut(usize::from(spare.0)),
            };
            match (print, hint) {
                (Some(print), Hint::Serial(serial)) => set_serial(print, serial),
                (Some(print), Hint::Path(path)) => set_path(print, path),
                (None, _) => {}
            }
        })
    })
}

fn identify_new(this: ArcBorrow<'_, Remap>, digits: &str) -> Result {
    let print = of_digits(digits).ok_or(EINVAL)?;
    commit(this, CommitKind::Identity, |meta| {
        if !meta.header().is_replacing() {
            this.say_error(format_args!("main is not being replaced; there is no new one"));
            return Err(EINVAL);
        }
        Ok(move |header: &mut Header| header.raw_mut().new_main = print)
    })
}

fn get(this: &Remap, name: Option<&str>, out: &mut dyn Out) -> Result {
    if name.is_some_and(|name| settings::find(name).is_none()) {
        this.say_error(format_args!("{}", settings::SetError::Unknown));
        return Err(EINVAL);
    }
    written(write_settings(this, name, out.writer()))
}

/// Makes everything durable that was acknowledged. Who writes to the device is told of what is lost by a flush of his own, so nothing of that
/// is taken as told here.
fn sync(this: &Remap) -> Result {
    refuse_read_only(this)?;
    let failed = metadata::flush(&this.spares, this.usable_spares(), &this.pool);
    this.flush_main().inspect_err(|_| {
        this.say_error(format_args!("main ({}) failed to flush", this.main.device));
    })?;
    if let Some(id) = failed.iter().next() {
        this.say_error(format_args!("{} failed to flush", this.device_of(id)));
        return Err(EIO);
    }
    if this.flush_failed() {
        this.say_error(format_args!(
            "a flush has failed, and none of the device has succeeded since; what was written before may be lost"
        ));
        return Err(EIO);
    }
    Ok(())
}

/// The entries from a sector on, a line each; as many as fit, then the sector to go on from.
fn table(this: &Remap, from: MainSector, out: &mut dyn Out) -> Result {
    /// The longest line.
    const LINE: usize = 96;
    let table = this.state.lock().table.clone();
    for entry in table.iter_from(from) {
        let (start, len) = (entry.extent.start, entry.extent.len);
        if out.room() < 2 * LINE {
            return written(writeln!(out, "more {start}"));
        }
        written(match entry.mapping {
            Mapping::Remapped { spare, to } => {
                writeln!(out, "{start} {len} remapped {spare} {to}")
            }
            Mapping::Suspect { spare, to } => writeln!(out, "{start} {len} suspect {spare} {to}"),
            Mapping::Pending => writeln!(out, "{start} {len} pending"),
            Mapping::Lost => writeln!(out, "{start} {len} lost"),
            Mapping::Retired { spare, at } => writeln!(out, "- {len} retired {spare} {at}"),
        })?;
    }
    Ok(())
}

/// Reads a block where it lives and, if that is a spare, where it was.
fn verify(this: &Remap, at: MainSector, out: &mut dyn Out) -> Result {
    let block = this.block_sectors();
    let one = range(this, MainSector(at.0 & !(block.0 - 1)), None)?;
    let entry = this.state.lock().table.lookup(one.start, one.len);
    let entry = entry.and_then(|entry| entry.clip(&one));
    let mut blocks = KVec::with_capacity(2, GFP_KERNEL)?;
    for _ in 0..2 {
        blocks.push(Block::zeroed()?, GFP_KERNEL)?;
    }
    let (main, spare) = blocks.split_at_mut(1);
    let span = Span::first(one.len);
    let sector = this.main.start + one.start.0;
    let mut ios = [Io::new(this.main.device.block(), sector, What::Read(main, span))];
    io::run(&this.pool, &mut ios);
    let main_ok = ios[0].status().is_ok();
    drop(ios);
    let word = |ok| if ok { "can be read" } else { "cannot be read" };
    match entry.map(|entry| entry.mapping) {
        None | Some(Mapping::Retired { .. }) => {
            written(writeln!(out, "{} lives on main, which {}", one.start, word(main_ok)))
        }
        Some(Mapping::Lost) => written(writeln!(
            out,
            "{} is lost: it lived on a spare that is gone; write it, or restore it from a backup",
            one.start
        )),
        Some(Mapping::Pending) => {
            written(writeln!(out, "{} is pending; main {}", one.start, word(main_ok)))
        }
        Some(Mapping::Remapped { spare: id, to } | Mapping::Suspect { spare: id, to }) => {
            let Some(device) = this.usable(id) else {
                return written(writeln!(
                    out,
                    "{} lives on {} at {to}, which is away",
                    one.start,
                    this.device_of(id)
                ));
            };
            let mut ios = [Io::new(device.block(), device.sector(to), What::Read(spare, span))];
            io::run(&this.pool, &mut ios);
            let ok = ios[0].status().is_ok();
            drop(ios);
            let bytes = one.len.0 as usize * SECTOR_SIZE;
            let old = match (main_ok, blocks[0][..bytes] == blocks[1][..bytes]) {
                (false, _) => "cannot be read",
                (true, true) => "has the same",
                (true, false) => "has something older",
            };
            written(writeln!(
                out,
                "{} lives on spare {id} at {to}, which {}; main {old}",
                one.start,
                word(ok)
            ))
        }
    }
}
