// SPDX-License-Identifier: GPL-2.0

//! From a table line to a target. Nothing is written here; the set becomes ours in `preresume`.
//!
//! ```text
//! <start> <length> remap <main> <spare> [<spare_start> <spare_length>] [<#opts> <opt> ...]
//! ```

use super::{
    counters::Counters,
    domains::Domains,
    engine::State,
    live::{self, Found, Part},
    rescue::{Notes, Rescues},
    route::MAIN_LIMIT,
    spare::{Cache, Main, Spare},
    view::View,
    Remap,
};
use crate::{
    dm::{
        bio::{BioPool, HeldList, HeldPile},
        device::{BlockDevice, Device},
        published::Published,
        system::{self, WorkQueue},
        target::{Args, Construct},
    },
    metadata::SpareStore,
    pure::{
        create::{check_create, Creation},
        entry::RETIRED_LIMIT,
        format::{
            header::Header,
            layout::{Layout, MIN_SPARE},
        },
        identity::{self, Facts},
        line::Line,
        mem::{Block, KVec, BLOCK_SIZE},
        recovery::recover,
        settings::{Limits, Setting},
        store::SpareSet,
        table::Table,
        units::{Sectors, SpareId, SECTOR_SIZE},
    },
};
use core::fmt::Display;
use kernel::{
    new_condvar, new_mutex, new_spinlock, new_work,
    prelude::*,
    str::CString,
    sync::{atomic::Atomic, Arc},
};

/// What a table line asks for beyond its devices.
pub(crate) struct Wish {
    /// Make a new set; done once.
    pub(crate) create: Option<NewSetWish>,
    /// Settings that it gives.
    pub(crate) settings: KVec<(&'static Setting, u64)>,
}

/// What a new set is to be like.
pub(crate) struct NewSetWish {
    pub(crate) name: Option<CString>,
    pub(crate) layout: Layout,
    pub(crate) overwrite: SpareSet,
}

/// Says what is wrong with a table line, and gives the error for it.
struct Complain {
    device: (u32, u32),
}

impl Complain {
    fn say(&self, what: impl Display, e: Error) -> Error {
        log_err!("dm-{}: {what}", self.device.1);
        e
    }
}

/// The facts by which a device is recognised.
pub(super) fn facts<'a>(device: &'a BlockDevice, path: &'a str) -> Facts<'a> {
    Facts {
        partition_uuid: device.partition_uuid(),
        hardware_id: device.unique_id(),
        sectors: Sectors(device.sectors()),
        logical_block: device.logical_block_size(),
        physical_block: device.physical_block_size(),
        path,
    }
}

/// Makes a target.
pub(super) fn construct(ctx: &mut Construct<'_>, args: &mut Args<'_>) -> Result<Arc<Remap>> {
    let mut words = KVec::with_capacity(args.len(), GFP_KERNEL)?;
    while let Some(word) = args.next()? {
        words.push(word, GFP_KERNEL)?;
    }
    let complain = Complain { device: ctx.mapped_device().number() };
    let line = Line::parse(&words).map_err(|e| {
        ctx.error(c"bad table line, see the kernel log");
        complain.say(e, EINVAL)
    })?;
    open(ctx, &line, &complain).inspect_err(|_| {
        ctx.error(c"the set cannot be used, see the kernel log");
    })
}

fn open(ctx: &mut Construct<'_>, line: &Line<'_>, complain: &Complain) -> Result<Arc<Remap>> {
    if !line.more_spares.is_empty() {
        return Err(
            complain.say("this version handles sets of one spare; leave out 'spare'", EINVAL)
        );
    }
    if let Some(uuid) = line.absent.first() {
        return Err(complain.say(
            format_args!(
                "the set has one spare, which cannot be absent; leave out 'absent {uuid}'"
            ),
            EINVAL,
        ));
    }
    let device = |what: &str, path: &str| {
        let opened = ctx.device(path);
        opened.map_err(|e| {
            let hint = if e == EBUSY { "; is it mounted, or in use?" } else { "" };
            complain.say(format_args!("{what} '{path}' cannot be opened: {e:?}{hint}"), e)
        })
    };
    let main = Main {
        device: device("main", line.main)?,
        start: line.main_start,
        len: Sectors(ctx.sectors()),
        cache: Cache::new(),
    };
    let spare = spare(device("spare", line.spare)?, line);
    check_devices(&main, &spare, line, ctx.writable(), complain)?;
    let limits = Limits {
        logical_block: sectors(main.device.block().logical_block_size()),
        physical_block: sectors(main.device.block().physical_block_size()),
        ..Limits::default()
    };
    let mut settings = KVec::with_capacity(line.settings.len(), GFP_KERNEL)?;
    for &(setting, text) in &line.settings {
        let value = setting.parse(text, &limits).map_err(|e| complain.say(e, EINVAL))?;
        settings.push((setting, value), GFP_KERNEL)?;
    }
    let overwrite = overwrite(line, complain)?;
    let layout = match line.max_remaps {
        None => Some(Layout::STANDARD),
        Some(n) => Layout::for_max_remaps(n),
    };
    let layout = layout
        .ok_or_else(|| complain.say("max_remaps is more than the format can hold", EINVAL))?;
    let pool = KBox::pin_init(BioPool::new(POOL), GFP_KERNEL)?;
    let mut spares = KVec::with_capacity(1, GFP_KERNEL)?;
    spares.push(spare, GFP_KERNEL)?;
    let parts = parts(&main, &spares[0]);
    match live::find(complain.device, parts.0, parts.1) {
        Found::Taken((_, minor)) => {
            return Err(complain.say(
                format_args!("main or spare is in use by dm-{minor}; remove that first"),
                EBUSY,
            ));
        }
        Found::Different => {
            return Err(complain.say(
                "the devices are in use by this device in another way; remove it first",
                EBUSY,
            ));
        }
        // What is on the disk may be changing; what is live has been checked.
        Found::Same if line.create => {
            return Err(complain.say("the set exists and is live; leave out 'create'", EEXIST));
        }
        Found::Same => {}
        Found::Free => {
            let mut store = SpareStore::new(&spares, &pool);
            if line.create {
                let creation = check_create(&mut store, &layout, overwrite, system::crc32)
                    .map_err(|e| complain.say(e, create_errno(&e)))?;
                if let Creation::Finish(_) = creation {
                    check_found(&mut store, &main, &spares[0], complain)?;
                }
            } else {
                check_found(&mut store, &main, &spares[0], complain)?;
            }
        }
    }
    if line.create && !ctx.writable() {
        return Err(complain.say("a read-only table creates nothing; leave out 'create'", EROFS));
    }
    ctx.flush_bios(1 + spares.len() as u32);
    let name = line.name.map(|name| CString::try_from_fmt(format_args!("{name}"))).transpose()?;
    let wish =
        Wish { create: line.create.then_some(NewSetWish { name, layout, overwrite }), settings };
    let degraded = line.degraded;
    let (mapped, writable, queue) = (
        ctx.mapped_device(),
        ctx.writable(),
        WorkQueue::new(c"dm-remap", super::engine::MAX_HOLDS as i32 + 2)?,
    );
    let state = State::inactive()?;
    let rescues = Rescues::new()?;
    let view = View::boxed(Table::empty(0)?, 0)?;
    Arc::pin_init(
        try_pin_init!(Remap {
            published: Published::new(view),
            main,
            spares,
            domains <- Domains::new(),
            counters: Counters::new(),
            held <- new_spinlock!(HeldList::new()),
            failed: HeldPile::new(),
            notes: Notes::new(),
            rescues <- new_mutex!(rescues),
            main_writes: Atomic::new(0),
            may_remap: Atomic::new(false),
            error_limit: Atomic::new(0),
            zeroes: Block::zeroed()?,
            pool,
            writable,
            degraded,
            mapped,
            wish <- new_mutex!(wish),
            meta <- new_mutex!(None),
            state <- new_mutex!(state),
            job_ended <- new_condvar!(),
            wake <- new_condvar!(),
            gathered <- new_condvar!(),
            narrowing: Atomic::new(0),
            last_error <- new_mutex!(super::LastError::default()),
            files <- new_mutex!(None),
            worker <- new_work!("dm_remap::Remap::worker"),
            dispatcher <- new_work!("dm_remap::Remap::dispatcher"),
            queue,
        }),
        GFP_KERNEL,
    )
}

/// Bios that are set aside for each device.
const POOL: u32 = 64;

fn sectors(bytes: u32) -> Sectors {
    Sectors((bytes as usize / SECTOR_SIZE).max(1) as u64)
}

fn create_errno(e: &crate::pure::create::CreateError) -> Error {
    use crate::pure::create::CreateError;
    match e {
        CreateError::Memory => ENOMEM,
        CreateError::Exists(..) => EEXIST,
        CreateError::TooSmall(..) => ENOSPC,
        CreateError::Unreadable(..) | CreateError::Write(_) => EIO,
        _ => EINVAL,
    }
}

fn spare(device: Device, line: &Line<'_>) -> Spare {
    let (start, len) = match line.part {
        Some(part) => part,
        // Whole blocks of 4 KiB: the metadata is written in those.
        None => (0, Sectors(device.block().sectors() & !7)),
    };
    Spare { device, start, len, part: line.part.is_some(), cache: Cache::new() }
}

/// Main and spare as parts of devices.
pub(super) fn parts(main: &Main, spare: &Spare) -> (Part, Part) {
    (
        Part { device: main.device.block().number(), start: main.start, len: main.len },
        Part { device: spare.block().number(), start: spare.start, len: spare.len },
    )
}

fn check_devices(
    main: &Main,
    spare: &Spare,
    line: &Line<'_>,
    writable: bool,
    complain: &Complain,
) -> Result {
    let main_block = main.device.block();
    for (what, device, path) in
        [("main", main_block, line.main), ("spare", spare.block(), line.spare)]
    {
        if device.is_zoned() {
            return Err(complain.say(
                format_args!(
                    "{what} '{path}' is zoned, which is not supported; use another device"
                ),
                EOPNOTSUPP,
            ));
        }
        if writable && device.is_read_only() {
            return Err(complain.say(
                format_args!("{what} '{path}' is read-only; load the table with --readonly"),
                EROFS,
            ));
        }
    }
    let size = main_block.sectors();
    if main.start.checked_add(main.len.0).is_none_or(|end| end > size) {
        return Err(complain.say(
            format_args!(
                "main '{}' has {size} sectors, the table maps {} from {}; map fewer",
                line.main, main.len, main.start
            ),
            EINVAL,
        ));
    }
    if main.len > MAIN_LIMIT {
        return Err(complain.say(
            format_args!("main is longer than {MAIN_LIMIT} sectors; map a part of it"),
            EINVAL,
        ));
    }
    let size = spare.block().sectors();
    if spare.start.checked_add(spare.len.0).is_none_or(|end| end > size) {
        return Err(complain.say(
            format_args!(
                "spare '{}' has {size} sectors, the table uses {} from {}; give a part that it has",
                line.spare, spare.len, spare.start
            ),
            EINVAL,
        ));
    }
    if spare.len.0 > RETIRED_LIMIT {
        return Err(complain.say(
            format_args!(
                "spare '{}' is longer than {RETIRED_LIMIT} sectors; give a part of it",
                line.spare
            ),
            EINVAL,
        ));
    }
    if spare.len < MIN_SPARE {
        return Err(complain.say(
            format_args!(
            "spare '{}' has {} sectors for the set, {MIN_SPARE} are the least; give a larger one",
            line.spare,
            spare.len
        ),
            ENOSPC,
        ));
    }
    if main_block.logical_block_size() as usize > BLOCK_SIZE {
        return Err(complain.say(
            format_args!("main '{}' has logical blocks of more than {BLOCK_SIZE} bytes", line.main),
            EINVAL,
        ));
    }
    let (is, most) = (spare.block().logical_block_size(), main_block.logical_block_size());
    if is > most {
        return Err(complain.say(format_args!(
            "spare '{}' has logical blocks of {is} bytes, main of {most}; use a spare with as small ones",
            line.spare
        ), EINVAL));
    }
    let block = sectors(most).0;
    for (what, n) in [
        ("main_start", main.start),
        ("the table's length", main.len.0),
        ("spare_start", spare.start),
        ("spare_length", spare.len.0),
    ] {
        if n & (block - 1) != 0 {
            return Err(complain.say(
                format_args!("{what} must be a multiple of main's logical block, {block} sectors"),
                EINVAL,
            ));
        }
    }
    let (a, b) = parts(main, spare);
    if a.overlaps(&b) {
        return Err(complain.say("main and spare overlap; use parts that do not", EINVAL));
    }
    Ok(())
}

/// The spares that may carry something foreign.
fn overwrite(line: &Line<'_>, complain: &Complain) -> Result<SpareSet> {
    let mut set = SpareSet::NONE;
    for &path in &line.overwrite {
        if path != line.spare {
            return Err(complain
                .say(format_args!("'overwrite {path}' names no spare of this line"), EINVAL));
        }
        set.add(SpareId(0));
    }
    Ok(set)
}

/// Whether what is on the spare can be used, and is made for these devices.
fn check_found(
    store: &mut SpareStore<'_>,
    main: &Main,
    spare: &Spare,
    complain: &Complain,
) -> Result {
    let found = recover(store, system::crc32).map_err(|e| complain.say(e, EINVAL))?;
    check_set(found.header(), main, spare).map_err(|what| complain.say(what, EINVAL))
}

/// Whether a set that was found is made for this main and this part of the spare.
pub(super) fn check_set(header: &Header, main: &Main, spare: &Spare) -> Result<(), Unfit> {
    let raw = header.raw();
    if raw.set.main_sectors.get() != main.len.0 || raw.set.main_start.get() != main.start {
        return Err(Unfit::Mapped {
            start: raw.set.main_start.get(),
            len: raw.set.main_sectors.get(),
        });
    }
    identity::compare(&raw.main, &facts(main.device.block(), "")).map_err(Unfit::Main)?;
    let member = &raw.spares[0];
    if member.used_start.get() != spare.start || member.used_sectors.get() != spare.len.0 {
        return Err(Unfit::Part { start: member.used_start.get(), len: member.used_sectors.get() });
    }
    Ok(())
}

/// Why a set is not for these devices.
pub(super) enum Unfit {
    /// It maps another part of main.
    Mapped { start: u64, len: u64 },
    /// It was made for another main.
    Main(identity::Differs),
    /// It uses another part of the spare.
    Part { start: u64, len: u64 },
}

impl Display for Unfit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Mapped { start, len } => write!(
                f,
                "the set maps {len} sectors of main from {start}; give the table that length, and main_start {start}"
            ),
            Self::Main(differs) => {
                write!(f, "the set was made for another main ({differs}); check the device's name")
            }
            Self::Part { start, len } => write!(
                f,
                "the set uses {len} sectors of the spare from {start}; give <spare_start> {start} <spare_length> {len}"
            ),
        }
    }
}
