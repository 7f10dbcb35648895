// SPDX-License-Identifier: GPL-2.0

//! From a table line to a target. Nothing is written here; the set becomes ours in `preresume`.
//!
//! ```text
//! <start> <length> remap <main> <spare> [<spare_start> <spare_length>] [<#opts> <opt> ...]
//! ```

use super::{
    counters::Counters,
    debt::Debt,
    domains::Domains,
    engine::State,
    given::{check_found, check_live, check_new_main, check_others, number},
    identity::Identity,
    live::{self, Found},
    looks::Notes,
    rescue::Rescues,
    rest::Rest,
    route::{FLUSH_PARTS, MAIN_LIMIT},
    spare::{Main, Spare, Spares},
    view::{Front, Regions},
    Remap,
};
use crate::{
    dm::{
        bio::BioPool,
        compat::EOPNOTSUPP,
        device::{BlockDevice, Device},
        held::{HeldList, HeldPile},
        system::{self, WorkQueue},
        target::{Args, Construct},
    },
    metadata::SpareStore,
    pure::{
        cache::{Cache, Flushes},
        create::{check_create, Creation},
        entry::RETIRED_LIMIT,
        format::{
            layout::{Layout, COPIES, MIN_SPARE},
            raw::RawFingerprint,
            MemberUuid,
        },
        identity::{Facts, FilesystemUuid, Mapped},
        line::Line,
        mem::{Block, KVec, BLOCK_SIZE},
        recovery::{members::Without, Known},
        settings::{Limits, Setting},
        store::SpareSet,
        units::{Sectors, SpareId, MAX_SPARES, SECTOR_SIZE},
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
    /// Members to do without.
    pub(crate) absent: KVec<MemberUuid>,
    /// What a person says of main.
    pub(crate) said: Said,
    /// The fingerprint of main before that was to be kept: whether it was, may be in doubt.
    pub(super) main_before: Option<RawFingerprint>,
    /// What was found when the line was read: most likely it is still there.
    pub(crate) found: Option<Known>,
}

/// Whether main takes the place of the one that the set has.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Takes {
    /// It is that one.
    #[default]
    No,
    /// It does.
    New,
    /// It is the one that was being replaced, and is so no more.
    Back,
}

/// What a person says of main.
#[derive(Clone, Copy, Default)]
pub(crate) struct Said {
    /// The filesystem that is the set's, whatever it was.
    pub(super) filesystem: Option<FilesystemUuid>,
    /// Whether it takes the place of the one that the set has.
    pub(super) takes: Takes,
    /// It has grown: the set takes the length of the table.
    pub(super) grow: bool,
}

/// What a new set is to be like.
pub(crate) struct NewSetWish {
    pub(crate) name: Option<CString>,
    pub(crate) layout: Layout,
    pub(crate) overwrite: SpareSet,
}

/// Says what is wrong with a table line, and gives the error for it.
pub(super) struct Complain<'a> {
    device: (u32, u32),
    remap: Option<&'a Remap>,
}

impl<'a> Complain<'a> {
    /// For a set that is in use.
    pub(super) fn of(remap: &'a Remap) -> Self {
        Self { device: remap.number(), remap: Some(remap) }
    }

    pub(super) fn say(&self, what: impl Display, e: Error) -> Error {
        match self.remap {
            Some(remap) => remap.say_error(format_args!("{what}")),
            None => log_err!("dm-{}: {what}", self.device.1),
        }
        e
    }

    /// The same, of the spare with this number in the line.
    pub(super) fn say_of(
        &self,
        line: &Line<'_>,
        id: Option<SpareId>,
        what: impl Display,
        e: Error,
    ) -> Error {
        match id.and_then(|id| line.spares().nth(usize::from(id.0))) {
            Some((path, _)) => self.say(format_args!("'{path}': {what}"), e),
            None => self.say(what, e),
        }
    }
}

/// The facts by which a device is recognised.
pub(super) fn facts<'a>(device: &'a BlockDevice, path: &'a str) -> Facts<'a> {
    Facts {
        partition_uuid: device.partition_uuid(),
        hardware_id: device.unique_id(),
        path,
        mapped: device.mapped(),
        ..Facts::of_size(
            Sectors(device.sectors()),
            device.logical_block_size(),
            device.physical_block_size(),
        )
    }
}

/// Makes a target.
pub(super) fn construct(ctx: &mut Construct<'_>, args: &mut Args<'_>) -> Result<Arc<Remap>> {
    let mut words = KVec::with_capacity(args.len(), GFP_KERNEL)?;
    while let Some(word) = args.next()? {
        words.push(word, GFP_KERNEL)?;
    }
    let complain = Complain { device: ctx.mapped_device().number(), remap: None };
    let line = Line::parse(&words).map_err(|e| {
        ctx.error(c"bad table line, see the kernel log");
        complain.say(e, EINVAL)
    })?;
    open(ctx, &line, &complain).inspect_err(|_| {
        ctx.error(c"the set cannot be used, see the kernel log");
    })
}

fn open(ctx: &mut Construct<'_>, line: &Line<'_>, complain: &Complain<'_>) -> Result<Arc<Remap>> {
    let opened = check(ctx, line, complain)?;
    assemble(ctx, line, opened)
}

/// What a table line names, found to be right.
struct Opened {
    main: Main,
    spares: KVec<Option<Spare>>,
    /// The live set that the table is to go on with knows main, and has these members.
    live: Option<[MemberUuid; MAX_SPARES]>,
    pool: Pin<KBox<BioPool>>,
    wish: Wish,
}

/// Opens the devices and checks what is on them. Reading a set takes a good part of the kernel's stack
/// of 16 KiB, which what is made of it must not stand on: hence two functions, neither part of another.
#[inline(never)]
fn check(ctx: &mut Construct<'_>, line: &Line<'_>, complain: &Complain<'_>) -> Result<Opened> {
    let absent = absent(line, complain)?;
    let device = |what: &str, path: &str| {
        let opened = ctx.device(path);
        opened.map_err(|e| {
            let hint = if e == EBUSY { "; is it mounted, or in use?" } else { "" };
            complain.say(format_args!("{what} '{path}' cannot be opened: {e:?}{hint}"), e)
        })
    };
    let device_of_main = device("main", line.main)?;
    let main = Main {
        copies: matches!(device_of_main.block().mapped(), Mapped::Copy(_)),
        device: device_of_main,
        start: line.main_start,
        len: Sectors(ctx.sectors()),
        cache: Cache::always_written(),
    };
    check_main(&main, line, ctx.writable(), complain)?;
    let mut listed = KVec::with_capacity(MAX_SPARES, GFP_KERNEL)?;
    for (path, part) in line.spares() {
        let mut spare = spare(device("spare", path)?, part);
        if let Some(used) = live::used_of(complain.device, spare.block().number()) {
            spare.fit(used);
        }
        check_spare(&main, &spare, path, ctx.writable(), complain)?;
        let own = spare.as_part();
        if listed.iter().flatten().any(|other: &Spare| other.as_part().overlaps(&own)) {
            return Err(complain.say(
                format_args!("spare '{path}' is given twice, or overlaps another one"),
                EINVAL,
            ));
        }
        listed.push(Some(spare), GFP_KERNEL)?;
    }
    let overwrite = overwrite(line, complain)?;
    let layout = match line.max_remaps {
        None => Some(Layout::STANDARD),
        Some(n) => Layout::for_max_remaps(n),
    };
    let layout = layout
        .ok_or_else(|| complain.say("max_remaps is more than the format can hold", EINVAL))?;
    let pool = KBox::pin_init(BioPool::new(POOL), GFP_KERNEL)?;
    let mut parts = KVec::new();
    for spare in listed.iter().flatten() {
        parts.push(spare.as_part(), GFP_KERNEL)?;
    }
    let away = line.degraded || !absent.is_empty();
    let without = Without { absent: &absent, away };
    let takes = match (line.new_main, line.old_main) {
        (true, _) => Takes::New,
        (_, true) => Takes::Back,
        _ => Takes::No,
    };
    let said = Said { filesystem: line.filesystem, takes, grow: line.grow };
    if takes != Takes::No && !ctx.writable() {
        return Err(complain.say("a read-only table takes no new main", EROFS));
    }
    let mut known = None;
    let mut found = None;
    let spares = match live::find(complain.device, main.as_part(), &parts, said) {
        Found::Taken((_, minor)) => {
            return Err(complain.say(
                format_args!("main or spare is in use by dm-{minor}; remove that first"),
                EBUSY,
            ));
        }
        Found::Different => {
            return Err(complain.say(
                "the devices are in use by this device in another way; remove it first, or say 'new_main' if it is main that is another one",
                EBUSY,
            ));
        }
        // What is on the disk may be changing; what is live has been checked.
        Found::Same(_) if line.create => {
            return Err(complain.say("the set exists and is live; leave out 'create'", EEXIST));
        }
        Found::Same(live) => {
            let mut spares = number(listed, Some(&live), line, &pool, complain)?;
            check_live(&live, &spares, &without, &pool, complain)?;
            check_others(&live, &mut spares, &pool, complain)?;
            if takes != Takes::No {
                check_new_main(&live, &main, &spares, said, &pool, complain)?;
            }
            known = Some(live.uuids);
            spares
        }
        Found::Free if line.create => {
            let mut store = SpareStore::new(&listed, SpareSet(u8::MAX), &pool);
            let creation = check_create(&mut store, &layout, overwrite, system::crc32)
                .map_err(|e| complain.say_of(line, e.of_spare(), e, create_errno(&e)))?;
            if let Creation::Finish(_) = creation {
                found =
                    Some(check_found(&mut listed, &without, said, &main, &pool, line, complain)?);
            }
            listed
        }
        Found::Free => {
            let mut spares = number(listed, None, line, &pool, complain)?;
            found = Some(check_found(&mut spares, &without, said, &main, &pool, line, complain)?);
            spares
        }
    };
    for (given, option) in [(line.create, "create"), (line.grow, "grow")] {
        if given && !ctx.writable() {
            return Err(complain.say(
                format_args!("a read-only table changes nothing; leave out '{option}'"),
                EROFS,
            ));
        }
    }
    let settings = settings(line, &main, &spares, complain)?;
    // Spares may join later.
    ctx.flush_bios(FLUSH_PARTS);
    let name = line.name.map(|name| CString::try_from_fmt(format_args!("{name}"))).transpose()?;
    let wish = Wish {
        create: line.create.then_some(NewSetWish { name, layout, overwrite }),
        settings,
        absent,
        said,
        main_before: None,
        found,
    };
    Ok(Opened { main, spares, live: known, pool, wish })
}

/// The target, inactive. See [`check`].
#[inline(never)]
fn assemble(ctx: &mut Construct<'_>, line: &Line<'_>, opened: Opened) -> Result<Arc<Remap>> {
    let Opened { main, spares, live, pool, wish } = opened;
    let (mapped, writable, degraded) = (ctx.mapped_device(), ctx.writable(), line.degraded);
    let debt = Debt::of(mapped.number())?;
    let queue = WorkQueue::new(c"dm-remap", super::engine::MAX_HOLDS as i32 + 4)?;
    let scan_queue = WorkQueue::new(c"dm-remap-scan", 1)?;
    let rescues = Rescues::new()?;
    let regions = Regions::of(main.len);
    let remap = Arc::pin_init(
        try_pin_init!(Remap {
            front <- Front::new(regions),
            flushes: Flushes::default(),
            main,
            spares <- Spares::none(),
            domains <- Domains::new(),
            counters: Counters::new(),
            held <- new_spinlock!(HeldList::new()),
            failed: HeldPile::new(),
            unread: super::alone::Unread::new(),
            mirrored: HeldPile::new(),
            mirror_broke: Atomic::new(false),
            changing: Atomic::new(0),
            notes: Notes::new(),
            rescues <- new_mutex!(rescues),
            main_writes: Atomic::new(0),
            may_remap: Atomic::new(false),
            maintenance: Atomic::new(false),
            error_limit: Atomic::new(0),
            zeroes: Block::zeroed()?,
            pool,
            writable,
            degraded,
            debt,
            wish <- new_mutex!(wish),
            identity <- new_mutex!(Identity { by: None, vouched: live.is_some() }),
            meta <- new_mutex!(None),
            state <- new_mutex!(State::inactive(regions, live.unwrap_or_default())?),
            job_ended <- new_condvar!(),
            wake <- new_condvar!(),
            gathered <- new_condvar!(),
            too_few_copies: Rest::new(),
            bad_copies: Rest::new(),
            suspicions: Rest::new(),
            scan <- new_mutex!(super::scan::Scan::default()),
            scan_turn <- new_condvar!(),
            alerts: Atomic::new(0),
            narrowing: Atomic::new(0),
            last_error <- new_mutex!(super::LastError::default()),
            files <- new_mutex!(None),
            worker <- new_work!("dm_remap::Remap::worker"),
            dispatcher <- new_work!("dm_remap::Remap::dispatcher"),
            scanner <- new_work!("dm_remap::Remap::scanner"),
            reader <- new_work!("dm_remap::Remap::reader"),
            queue,
            scan_queue,
            mapped,
        }),
        GFP_KERNEL,
    )?;
    for (n, spare) in spares.into_iter().enumerate() {
        if let Some(spare) = spare {
            spare.put(SpareId(n as u8), &remap.spares)?;
        }
    }
    Ok(remap)
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

fn spare(device: Device, part: Option<(u64, Sectors)>) -> Spare {
    // Whole blocks of 4 KiB: the metadata is written in those.
    let all = (0, Sectors(device.block().sectors() & !7));
    let (start, len) = part.unwrap_or(all);
    Spare::new(device, start, len, part.is_some())
}

/// The settings that the line gives, each within what these devices allow.
fn settings(
    line: &Line<'_>,
    main: &Main,
    spares: &[Option<Spare>],
    complain: &Complain<'_>,
) -> Result<KVec<(&'static Setting, u64)>> {
    let mut given = SpareSet::NONE;
    let there = (0..).map(SpareId).zip(spares).filter(|(_, spare)| spare.is_some());
    there.for_each(|(id, _)| given.add(id));
    let limits = Limits {
        logical_block: sectors(main.device.block().logical_block_size()),
        physical_block: sectors(main.device.block().physical_block_size()),
        copies: (COPIES * given.iter().count()) as u64,
        spares: given,
    };
    let mut settings = KVec::with_capacity(line.settings.len(), GFP_KERNEL)?;
    for &(setting, text) in &line.settings {
        let value = setting.parse(text, &limits).map_err(|e| complain.say(e, EINVAL))?;
        settings.push((setting, value), GFP_KERNEL)?;
    }
    Ok(settings)
}

/// The members that the line does without.
fn absent(line: &Line<'_>, complain: &Complain<'_>) -> Result<KVec<MemberUuid>> {
    let mut absent = KVec::with_capacity(line.absent.len(), GFP_KERNEL)?;
    for &text in &line.absent {
        let Some(uuid) = MemberUuid::parse(text).filter(|_| !line.create) else {
            return Err(complain
                .say(format_args!("'absent {text}' names no spare of a set by its UUID"), EINVAL));
        };
        absent.push(uuid, GFP_KERNEL)?;
    }
    Ok(absent)
}

/// Whether a device can be a part of a set at all.
fn check_device(
    what: &str,
    device: &BlockDevice,
    path: &str,
    writable: bool,
    complain: &Complain<'_>,
) -> Result {
    if device.is_zoned() {
        return Err(complain.say(
            format_args!("{what} '{path}' is zoned, which is not supported; use another device"),
            EOPNOTSUPP,
        ));
    }
    if writable && device.is_read_only() {
        return Err(complain.say(
            format_args!("{what} '{path}' is read-only; load the table with --readonly"),
            EROFS,
        ));
    }
    Ok(())
}

/// Whether these are a multiple of main's logical block.
fn check_multiples(main: &Main, numbers: [(&str, u64); 2], complain: &Complain<'_>) -> Result {
    let block = sectors(main.device.block().logical_block_size()).0;
    for (what, n) in numbers {
        if n & (block - 1) != 0 {
            return Err(complain.say(
                format_args!("{what} must be a multiple of main's logical block, {block} sectors"),
                EINVAL,
            ));
        }
    }
    Ok(())
}

fn check_main(main: &Main, line: &Line<'_>, writable: bool, complain: &Complain<'_>) -> Result {
    let main_block = main.device.block();
    check_device("main", main_block, line.main, writable, complain)?;
    let size = main_block.sectors();
    if main.start.checked_add(main.len.0).is_none_or(|end| end > size) {
        return Err(complain.say(
            format_args!(
                "main '{}' has {size} sectors, the table maps {} from {}; map fewer, or check the device's name: this may not be the set's main",
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
    if main_block.logical_block_size() as usize > BLOCK_SIZE {
        return Err(complain.say(
            format_args!("main '{}' has logical blocks of more than {BLOCK_SIZE} bytes", line.main),
            EINVAL,
        ));
    }
    check_multiples(
        main,
        [("main_start", main.start), ("the table's length", main.len.0)],
        complain,
    )
}

pub(super) fn check_spare(
    main: &Main,
    spare: &Spare,
    path: &str,
    writable: bool,
    complain: &Complain<'_>,
) -> Result {
    check_device("spare", spare.block(), path, writable, complain)?;
    let size = spare.block().sectors();
    if spare.start.checked_add(spare.len.0).is_none_or(|end| end > size) {
        return Err(complain.say(
            format_args!(
                "spare '{path}' has {size} sectors, the table uses {} from {}; give a part that it has",
                spare.len, spare.start
            ),
            EINVAL,
        ));
    }
    if spare.len.0 > RETIRED_LIMIT {
        return Err(complain.say(
            format_args!(
                "spare '{path}' is longer than {RETIRED_LIMIT} sectors; give a part of it"
            ),
            EINVAL,
        ));
    }
    if spare.len < MIN_SPARE {
        return Err(complain.say(
            format_args!(
            "spare '{path}' has {} sectors for the set, {MIN_SPARE} are the least; give a larger one",
            spare.len
        ),
            ENOSPC,
        ));
    }
    let most = main.device.block().logical_block_size();
    let is = spare.block().logical_block_size();
    if is > most {
        return Err(complain.say(format_args!(
            "spare '{path}' has logical blocks of {is} bytes, main of {most}; use a spare with as small ones"
        ), EINVAL));
    }
    let part = [("spare_start", spare.start), ("spare_length", spare.len.0)];
    check_multiples(main, part, complain)?;
    if main.as_part().overlaps(&spare.as_part()) {
        return Err(complain.say("main and spare overlap; use parts that do not", EINVAL));
    }
    Ok(())
}

/// The spares that may carry something foreign.
fn overwrite(line: &Line<'_>, complain: &Complain<'_>) -> Result<SpareSet> {
    let mut set = SpareSet::NONE;
    for &path in &line.overwrite {
        let Some(n) = line.spares().position(|(spare, _)| spare == path) else {
            return Err(complain
                .say(format_args!("'overwrite {path}' names no spare of this line"), EINVAL));
        };
        set.add(SpareId(n as u8));
    }
    Ok(set)
}
