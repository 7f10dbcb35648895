//! What a dump is: all that the metadata of a set says, as JSON, and a header and entries of it again.
//!
//! Sectors are of 512 bytes, times in seconds since 1970, numbers that say nothing to people hexadecimal.

#![forbid(unsafe_code)]

pub mod child;
pub mod clone;
pub mod configuration;
pub mod devices;
pub mod draw;
pub mod extents;
pub mod label;
pub mod lists;
pub mod owners;
pub mod recovery_time;
pub mod smart;
pub mod state;
mod stream;
pub mod surface;
pub mod watch;

use remap_pure::entry::{Entry, EntryError, Mapping};
use remap_pure::format::header::{check, text as padded, Header, NewSet};
use remap_pure::format::layout::{CopyId, Layout};
use remap_pure::format::raw::{
    RawFingerprint, RawHeader, RawPast, HARDWARE_ID_BYTES, LINE_BYTES, NAME_BYTES, PAST_HISTORIES,
    PATH_BYTES,
};
use remap_pure::format::{CommitKind, SetUuid, KNOWN_INCOMPATIBLE, KNOWN_READ_ONLY};
use remap_pure::rewrite::finish;
use remap_pure::settings::{Settings, SETTINGS};
use remap_pure::table::Table;
use remap_pure::units::{
    Extent as MainExtent, MainSector, Sectors, SpareId, SpareSector, MAX_SPARES,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The number of this way to write a set down; raised when a reader has to know of a change.
pub const DUMP_FORMAT: u32 = 3;

/// The oldest that is read. It says nothing of a replacement of main.
const OLDEST_FORMAT: u32 = 2;

/// All that the metadata of a set says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dump {
    dump_format: u32,
    set: String,
    name: String,
    version: u64,
    history: String,
    past_histories: Vec<Past>,
    created: u64,
    committed: u64,
    last_commit: String,
    features: Features,
    main: Device,
    spares: Vec<Spare>,
    table_line: String,
    table_line_cut: bool,
    table_blocks: u32,
    settings: BTreeMap<String, u64>,
    setting_slots: Slots,
    assembly: Assembly,
    lifetime: BTreeMap<String, u64>,
    /// There from format 3 on.
    #[serde(default)]
    replacement: Option<Replacement>,
    extents: Vec<Extent>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Past {
    history: String,
    ended: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Features {
    compatible: u64,
    read_only_compatible: u64,
    incompatible: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Device {
    start: u64,
    sectors: u64,
    #[serde(flatten)]
    print: Print,
}

/// What a device is recognised by.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Print {
    device_sectors: u64,
    logical_block: u32,
    physical_block: u32,
    path: String,
    known: u16,
    partition_uuid: String,
    hardware_kind: u8,
    hardware_id: String,
    serial_hash: String,
    filesystem_uuid: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Spare {
    number: u8,
    uuid: String,
    state: String,
    state_number: u8,
    order: u8,
    health: u8,
    last_checked: u64,
    since_version: u64,
    successor: String,
    device: Device,
}

/// The replacement of main that is under way, and the one before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Replacement {
    attempt: String,
    new_main: Print,
    old_main: Print,
}

/// The settings as the header has them, those too that this program does not know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Slots {
    present: u32,
    present_before: u32,
    value: Vec<u64>,
    value_before: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Assembly {
    required: u32,
    primary: u32,
    flags: u32,
    min_match: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Extent {
    Remapped { start: u64, len: u64, spare: u8, to: u64 },
    Suspect { start: u64, len: u64, spare: u8, to: u64 },
    Pending { start: u64, len: u64 },
    Lost { start: u64, len: u64 },
    Retired { spare: u8, at: u64, len: u64 },
}

macro_rules! lifetime {
    ($statistics:expr) => {{
        let s = $statistics;
        [
            ("commits", &mut s.commits),
            ("auto_remaps", &mut s.auto_remaps),
            ("manual_remaps", &mut s.manual_remaps),
            ("unremaps", &mut s.unremaps),
            ("pending_marks", &mut s.pending_marks),
            ("retired_places", &mut s.retired_places),
            ("main_read_errors", &mut s.main_read_errors),
            ("main_write_errors", &mut s.main_write_errors),
            ("spare_read_errors", &mut s.spare_read_errors),
            ("spare_write_errors", &mut s.spare_write_errors),
            ("activations", &mut s.activations),
            ("copies_rebuilt", &mut s.copies_rebuilt),
            ("scans", &mut s.scans),
            ("migrations", &mut s.migrations),
        ]
    }};
}

impl Dump {
    /// The dump of a state.
    pub fn of(header: &Header, table: &Table) -> Self {
        Self { extents: table.iter().map(Extent::of).collect(), ..Self::head(header) }
    }

    /// The dump of a state, without its extents.
    fn head(header: &Header) -> Self {
        let raw = header.raw();
        let version = &raw.version;
        let past = version.past.iter().take(version.past_count.get() as usize);
        let settings = Settings::from_raw(&raw.settings);
        let mut statistics = raw.statistics;
        Self {
            dump_format: DUMP_FORMAT,
            set: header.uuid().to_string(),
            name: header.name().into(),
            version: header.version(),
            history: format!("{:016x}", header.history()),
            past_histories: past
                .map(|past| Past {
                    history: format!("{:016x}", past.history.get()),
                    ended: past.ended.get(),
                })
                .collect(),
            created: version.created.get(),
            committed: version.committed.get(),
            last_commit: CommitKind::from_raw(version.kind.get())
                .map_or("unknown", CommitKind::name)
                .into(),
            features: Features {
                compatible: raw.features.compatible.get(),
                read_only_compatible: raw.features.read_only_compatible.get(),
                incompatible: raw.features.incompatible.get(),
            },
            main: device(&raw.main, raw.set.main_start.get(), raw.set.main_sectors.get()),
            spares: (0..header.spares() as u8)
                .map(|number| spare(header, SpareId(number)))
                .collect(),
            table_line: header.line().into(),
            table_line_cut: raw.line.flags.get() & 1 != 0,
            table_blocks: header.layout().capacity(),
            settings: SETTINGS
                .iter()
                .filter_map(|setting| Some((setting.name.into(), settings.explicit(setting)?)))
                .collect(),
            setting_slots: Slots {
                present: raw.settings.present.get(),
                present_before: raw.settings.present_before.get(),
                value: raw.settings.value.iter().map(|v| v.get()).collect(),
                value_before: raw.settings.value_before.iter().map(|v| v.get()).collect(),
            },
            assembly: Assembly {
                required: raw.assembly.required.get(),
                primary: raw.assembly.primary.get(),
                flags: raw.assembly.flags.get(),
                min_match: raw.assembly.min_match.get(),
            },
            lifetime: lifetime!(&mut statistics)
                .into_iter()
                .map(|(name, count)| (name.into(), count.get()))
                .collect(),
            replacement: Some(Replacement {
                attempt: header.attempt().to_string(),
                new_main: print(&raw.new_main),
                old_main: print(&raw.old_main),
            }),
            extents: Vec::new(),
        }
    }

    /// The dump in a text.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for a person.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            dump_format: u32,
        }
        let format = serde_json::from_slice::<Format>(text)
            .map_err(|e| format!("is not a dump: {e}"))?
            .dump_format;
        if !(OLDEST_FORMAT..=DUMP_FORMAT).contains(&format) {
            return Err(format!("is a dump of format {format}, and only {OLDEST_FORMAT} to {DUMP_FORMAT} are known; use the dmremap that wrote it"));
        }
        let dump: Self =
            serde_json::from_slice(text).map_err(|e| format!("is not a whole dump: {e}"))?;
        match dump.replacement.is_some() || format == OLDEST_FORMAT {
            true => Ok(dump),
            false => Err("is not a whole dump: missing field `replacement`".into()),
        }
    }

    /// Whether it says which attempt to replace main was under way, if one was.
    pub fn knows_attempt(&self) -> bool {
        self.replacement.is_some()
    }

    /// The header that it speaks of, at the version and history that it had.
    ///
    /// # Errors
    ///
    /// What cannot be, for a person.
    pub fn header(&self) -> Result<Header, String> {
        let features = &self.features;
        if features.read_only_compatible & !KNOWN_READ_ONLY != 0
            || features.incompatible & !KNOWN_INCOMPATIBLE != 0
        {
            return Err("it has features of a newer dm-remap; use that".into());
        }
        let layout =
            Layout::new(self.table_blocks).filter(|layout| layout.capacity() == self.table_blocks);
        if self.name.len() > NAME_BYTES || self.table_line.len() > LINE_BYTES {
            return Err("its name or its table line is too long".into());
        }
        if self.version == 0 || self.version >= u64::MAX - 1 {
            return Err("its version cannot be".into());
        }
        let mut header = Header::new(&NewSet {
            uuid: SetUuid(uuid(&self.set)?),
            history: number(&self.history)?,
            name: &self.name,
            time: self.created,
            layout: layout.ok_or("its number of table blocks cannot be")?,
            main_sectors: Sectors(self.main.sectors),
            main_start: Sectors(self.main.start),
            line: &self.table_line,
        })
        .map_err(|_| "no memory")?;
        let raw = header.raw_mut();
        raw.version.version.set(self.version);
        raw.version.committed.set(self.committed);
        if self.past_histories.len() > PAST_HISTORIES {
            return Err("it has too many past histories".into());
        }
        raw.version.past_count.set(self.past_histories.len() as u32);
        for (raw, past) in raw.version.past.iter_mut().zip(&self.past_histories) {
            *raw = RawPast { history: number(&past.history)?.into(), ended: past.ended.into() };
        }
        raw.features.compatible.set(features.compatible);
        raw.features.read_only_compatible.set(features.read_only_compatible);
        raw.features.incompatible.set(features.incompatible);
        raw.line.flags.set(u16::from(self.table_line_cut));
        raw.main = fingerprint(&self.main.print)?;
        if let Some(replacement) = &self.replacement {
            raw.replacement.attempt = uuid(&replacement.attempt)?;
            raw.new_main = fingerprint(&replacement.new_main)?;
            raw.old_main = fingerprint(&replacement.old_main)?;
        }
        self.spares(raw)?;
        let slots = &self.setting_slots;
        raw.settings.present.set(slots.present);
        raw.settings.present_before.set(slots.present_before);
        for (raw, values) in [
            (&mut raw.settings.value, &slots.value),
            (&mut raw.settings.value_before, &slots.value_before),
        ] {
            if raw.len() != values.len() {
                return Err("it has fewer or more settings than there is room for".into());
            }
            raw.iter_mut().zip(values).for_each(|(raw, value)| raw.set(*value));
        }
        let assembly = &self.assembly;
        raw.assembly.required.set(assembly.required);
        raw.assembly.primary.set(assembly.primary);
        raw.assembly.flags.set(assembly.flags);
        raw.assembly.min_match.set(assembly.min_match);
        for (name, count) in lifetime!(&mut raw.statistics) {
            count.set(self.lifetime.get(name).copied().unwrap_or(0));
        }
        // What a reader would not take must not be made.
        let id = CopyId { spare: SpareId(0), copy: 0 };
        let block = header.encode(id, 0, crc).map_err(|_| "no memory")?;
        check(&block, id, crc).map_err(|e| e.to_string())?;
        Ok(header)
    }

    fn spares(&self, raw: &mut RawHeader) -> Result<(), String> {
        if !(1..=MAX_SPARES).contains(&self.spares.len()) {
            return Err(format!(
                "it has {} spares, and a set has 1 to {MAX_SPARES}",
                self.spares.len()
            ));
        }
        raw.set.spares.set(self.spares.len() as u32);
        for (i, spare) in self.spares.iter().enumerate() {
            if usize::from(spare.number) != i {
                return Err("its spares are not in their order".into());
            }
            let to = &mut raw.spares[i];
            to.uuid = uuid(&spare.uuid)?;
            to.order = spare.order;
            to.state = spare.state_number;
            to.health = spare.health;
            to.last_checked.set(spare.last_checked);
            to.used_start.set(spare.device.start);
            to.used_sectors.set(spare.device.sectors);
            to.since_version.set(spare.since_version);
            to.successor = uuid(&spare.successor)?;
            raw.fingerprints[i] = fingerprint(&spare.device.print)?;
        }
        Ok(())
    }

    /// The table that it speaks of, its blocks as of the version that it had.
    ///
    /// # Errors
    ///
    /// What cannot be, for a person.
    pub fn table(&self) -> Result<Table, String> {
        let table = Table::empty(self.table_blocks).map_err(|_| "no memory")?;
        let mut edit = table.edit().map_err(|_| "no memory")?;
        let mut sectors: u64 = 0;
        let mut places = Vec::new();
        for entry in self.extents.iter().map(Extent::entry) {
            let Entry { extent, mapping } = entry;
            let bad = |e: String| format!("its entry for sector {}: {e}", extent.start);
            if extent.len.0 == 0 {
                return Err(bad(EntryError::Length.to_string()));
            }
            edit.set(extent, mapping).map_err(|e| bad(e.to_string()))?;
            sectors = sectors.saturating_add(extent.len.0);
            if let Mapping::Retired { spare, at: to }
            | Mapping::Suspect { spare, to }
            | Mapping::Remapped { spare, to } = mapping
            {
                places.push((spare, to, to + extent.len));
            }
        }
        places.sort_unstable();
        if let Some(pair) = places.windows(2).find(|p| p[0].0 == p[1].0 && p[1].1 < p[0].2) {
            let (spare, at, _) = pair[1];
            return Err(format!("it gives sector {at} of spare {spare} to two extents"));
        }
        let set = SetUuid(uuid(&self.set)?);
        let table = finish(edit, &set, self.version, crc).map_err(|e| e.to_string())?;
        let totals = table.totals();
        if totals.remapped.0 + totals.pending.0 + totals.retired.0 != sectors {
            return Err("two of its extents overlap".into());
        }
        Ok(table)
    }
}

impl Extent {
    fn of(entry: Entry) -> Self {
        let (start, len) = (entry.extent.start.0, entry.extent.len.0);
        match entry.mapping {
            Mapping::Pending => Self::Pending { start, len },
            Mapping::Lost => Self::Lost { start, len },
            Mapping::Remapped { spare, to } => {
                Self::Remapped { start, len, spare: spare.0, to: to.0 }
            }
            Mapping::Suspect { spare, to } => {
                Self::Suspect { start, len, spare: spare.0, to: to.0 }
            }
            Mapping::Retired { spare, at } => Self::Retired { spare: spare.0, at: at.0, len },
        }
    }

    fn entry(&self) -> Entry {
        let (start, len, mapping) = match *self {
            Self::Retired { spare, at, len } => {
                return Entry::retired(SpareId(spare), SpareSector(at), Sectors(len));
            }
            Self::Pending { start, len } => (start, len, Mapping::Pending),
            Self::Lost { start, len } => (start, len, Mapping::Lost),
            Self::Suspect { start, len, spare, to } => {
                (start, len, Mapping::Suspect { spare: SpareId(spare), to: SpareSector(to) })
            }
            Self::Remapped { start, len, spare, to } => {
                (start, len, Mapping::Remapped { spare: SpareId(spare), to: SpareSector(to) })
            }
        };
        Entry { extent: MainExtent { start: MainSector(start), len: Sectors(len) }, mapping }
    }
}

/// Checksums as the format has them.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn device(raw: &RawFingerprint, start: u64, sectors: u64) -> Device {
    Device { start, sectors, print: print(raw) }
}

fn print(print: &RawFingerprint) -> Print {
    let id = &print.hardware_id;
    Print {
        device_sectors: print.sectors.get(),
        logical_block: print.logical_block.get(),
        physical_block: print.physical_block.get(),
        path: padded(&print.path).into(),
        known: print.known.get(),
        partition_uuid: hex(&print.partition_uuid),
        hardware_kind: print.hardware_kind,
        hardware_id: hex(&id[..usize::from(print.hardware_len).min(id.len())]),
        serial_hash: format!("{:016x}", print.serial_hash.get()),
        filesystem_uuid: hex(&print.filesystem_uuid),
    }
}

/// What a device is recognised by, as a dump has it.
pub fn known(print: &RawFingerprint) -> serde_json::Value {
    // Nothing in it cannot be written as JSON.
    serde_json::to_value(device(print, 0, 0)).unwrap_or_default()
}

fn fingerprint(device: &Print) -> Result<RawFingerprint, String> {
    let mut print = RawFingerprint::unknown();
    print.sectors.set(device.device_sectors);
    print.logical_block.set(device.logical_block);
    print.physical_block.set(device.physical_block);
    let path = device.path.as_bytes();
    let to = print
        .path
        .get_mut(..path.len())
        .ok_or_else(|| format!("a path is longer than {PATH_BYTES} bytes"))?;
    to.copy_from_slice(path);
    print.known.set(device.known);
    print.partition_uuid = exactly(&device.partition_uuid)?;
    print.hardware_kind = device.hardware_kind;
    let id = bytes(&device.hardware_id)?;
    let to = print.hardware_id.get_mut(..id.len());
    to.ok_or_else(|| format!("a hardware identifier is longer than {HARDWARE_ID_BYTES} bytes"))?
        .copy_from_slice(&id);
    print.hardware_len = id.len() as u8;
    print.serial_hash.set(number(&device.serial_hash)?);
    print.filesystem_uuid = exactly(&device.filesystem_uuid)?;
    Ok(print)
}

fn spare(header: &Header, number: SpareId) -> Spare {
    let i = usize::from(number.0);
    let (spare, print) = (&header.raw().spares[i], &header.raw().fingerprints[i]);
    Spare {
        number: number.0,
        uuid: SetUuid(spare.uuid).to_string(),
        state: format!("{:?}", header.spare_state(number)).to_lowercase(),
        state_number: spare.state,
        order: spare.order,
        health: spare.health,
        last_checked: spare.last_checked.get(),
        since_version: spare.since_version.get(),
        successor: SetUuid(spare.successor).to_string(),
        device: device(print, spare.used_start.get(), spare.used_sectors.get()),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |four: u8| char::from_digit(four.into(), 16);
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit).collect()
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let digit = |c: u8| char::from(c).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| match *pair {
        [high, low] => Some(((digit(high)? << 4) | digit(low)?) as u8),
        _ => None,
    });
    bytes.collect::<Option<_>>().ok_or_else(|| format!("'{text}' is not in hexadecimal digits"))
}

fn exactly<const N: usize>(text: &str) -> Result<[u8; N], String> {
    bytes(text)?.try_into().map_err(|_| format!("'{text}' is not of {N} bytes"))
}

fn uuid(text: &str) -> Result<[u8; 16], String> {
    exactly(&text.replace('-', ""))
}

fn number(text: &str) -> Result<u64, String> {
    exactly(text).map(u64::from_be_bytes)
}
