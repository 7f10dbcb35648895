//! A spare as bytes, for the pure code: what is on a drive is read with it, and images are made.

use remap_pure::commit::Metadata;
use remap_pure::copies::CopyState;
use remap_pure::create::create;
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::header::{NewSet, NewSpare};
use remap_pure::format::layout::{CopyId, Layout, EXTENSIONS};
use remap_pure::format::{CommitKind, SetUuid};
use remap_pure::identity::{fingerprint, Facts};
use remap_pure::mem::BLOCK_SIZE;
use remap_pure::recovery::members::identify;
use remap_pure::recovery::{recover, Recovered};
use remap_pure::store::{IoError, Read, SpareSet, Store, Write};
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};

use crate::{Drive, Place};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// No sector of main has a greater number; entries of the table that have one are not about main.
const SECTOR_LIMIT: u64 = 1 << 47;

/// The first spare of a set.
const FIRST: SpareId = SpareId(0);

/// Checksums as the module computes them.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The beginning of a spare; what lies behind it reads as zeroes.
pub struct Image {
    bytes: Vec<u8>,
    sectors: u64,
}

impl Image {
    /// Sectors at the beginning of a spare that hold the metadata, and some data, when the table has the standard size.
    pub const METADATA_SECTORS: u64 = EXTENSIONS.0;

    /// A blank spare of so many sectors.
    pub fn blank(sectors: u64) -> Self {
        Image { bytes: Vec::new(), sectors }
    }

    /// What a drive has durably.
    pub fn of(drive: &Drive) -> Self {
        Self { bytes: drive.durable(0..drive.sectors()), sectors: drive.sectors() }
    }

    /// The first [`METADATA_SECTORS`](Self::METADATA_SECTORS), and what is behind them of a larger table.
    pub fn metadata(&mut self) -> &[u8] {
        let least = Self::METADATA_SECTORS as usize * 512;
        self.bytes.resize(self.bytes.len().max(least), 0);
        &self.bytes
    }

    /// Writes it to a file of the spare's size.
    pub fn write_to(&self, path: &Path) -> io::Result<()> {
        fs::write(path, &self.bytes)?;
        File::options().write(true).open(path)?.set_len(self.sectors * 512)
    }

    /// What activation would find.
    pub fn recover(&mut self) -> Recovered {
        recover(self, crc).unwrap_or_else(|refusal| panic!("no set on the spare: {refusal}"))
    }

    /// Whether activation would find a set.
    pub fn has_set(&mut self) -> bool {
        recover(self, crc).is_ok()
    }

    /// Whether all five copies are whole and of one version.
    pub fn is_clean(&mut self) -> bool {
        let found = self.recover();
        let good = |copy| found.copies().state(CopyId { spare: FIRST, copy }) == CopyState::Good;
        (0..5).all(good) && found.is_clean()
    }

    /// What the newest table says of main.
    pub fn places(&mut self) -> Vec<Place> {
        let place = |entry: Entry| Place {
            start: entry.extent.start.0,
            len: entry.extent.len.0,
            spare: entry.mapping.place().map_or(0, |(spare, _)| spare.0),
            at: entry.mapping.place().map(|(_, to)| to.0),
        };
        self.recover()
            .table()
            .iter()
            .map(place)
            .filter(|place| place.start < SECTOR_LIMIT)
            .collect()
    }

    /// Makes it the spare of a new set for a main of `main_sectors` with blocks of 512 bytes, on which the runs of `remapped` live on
    /// this spare.
    pub fn create(&mut self, main_sectors: u64, remapped: impl Iterator<Item = (u64, u64)>) {
        self.create_large(Layout::STANDARD, main_sectors, remapped);
    }

    /// The same, with a table that is not of the standard size.
    pub fn create_large(
        &mut self,
        layout: Layout,
        main_sectors: u64,
        remapped: impl Iterator<Item = (u64, u64)>,
    ) {
        let facts = |sectors| Facts::of_size(Sectors(sectors), 512, 512);
        let set = NewSet {
            uuid: SetUuid(*b"an image's uuid."),
            history: 1,
            name: "image",
            time: 1,
            layout,
            main_sectors: Sectors(main_sectors),
            main_start: Sectors(0),
            line: "",
        };
        let member = NewSpare {
            uuid: *b"its spare's uuid",
            fingerprint: fingerprint(&facts(self.sectors)),
            used_start: Sectors(0),
            used_sectors: Sectors(self.sectors),
        };
        let main = fingerprint(&facts(main_sectors));
        let mut meta =
            create(self, &set, &[member], SpareSet::NONE, crc, |h| h.raw_mut().main = main)
                .unwrap_or_else(|e| panic!("{e}"));
        self.remap(&mut meta, remapped);
    }

    fn remap(&mut self, meta: &mut Metadata, runs: impl Iterator<Item = (u64, u64)>) {
        let mut edit = meta.table().edit().unwrap_or_else(|e| panic!("{e}"));
        let mut to = meta.header().layout().end();
        for (start, len) in runs {
            let extent = Extent { start: MainSector(start), len: Sectors(len) };
            let mapping = Mapping::Remapped { spare: FIRST, to };
            edit.set(extent, mapping).unwrap_or_else(|e| panic!("{e}"));
            to = to + Sectors(len);
        }
        let prepared =
            meta.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap_or_else(|e| panic!("{e}"));
        let in_a = prepared.write_group_a(self).unwrap_or_else(|e| panic!("{e}"));
        in_a.write_group_b(self);
    }
}

impl Store for Image {
    fn spares(&self) -> SpareSet {
        let mut set = SpareSet::NONE;
        set.add(FIRST);
        set
    }

    fn sectors(&self, _: SpareId) -> Sectors {
        Sectors(self.sectors)
    }

    fn read(&mut self, batch: &mut [Read]) {
        for read in batch {
            let range = bytes_of(read.at);
            match self.bytes.get(range) {
                Some(bytes) => read.block.copy_from_slice(bytes),
                None => read.block.fill(0),
            }
            read.result = Ok(());
        }
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        for write in batch {
            let range = bytes_of(write.at);
            if self.bytes.len() < range.end {
                self.bytes.resize(range.end, 0);
            }
            write.result = match self.bytes.get_mut(range) {
                Some(bytes) => {
                    bytes.copy_from_slice(&write.block[..]);
                    Ok(())
                }
                None => Err(IoError::EIO),
            };
        }
    }

    fn flush(&mut self, _: SpareSet) -> SpareSet {
        SpareSet::NONE
    }
}

/// The content of a device.
pub trait Device {
    /// Its size in sectors.
    fn sectors(&self) -> u64;
    /// The block at a sector; none where there is nothing but zeroes.
    fn block(&self, at: SpareSector) -> Option<&[u8]>;
}

impl Device for Image {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn block(&self, at: SpareSector) -> Option<&[u8]> {
        self.bytes.get(bytes_of(at))
    }
}

/// Devices as a table line names them: each where it says that it is.
pub struct Named<'d, D>(Vec<(SpareId, &'d D)>);

impl<'d, D: Device> Named<'d, D> {
    /// Whom the devices say that they are.
    ///
    /// # Errors
    ///
    /// One says nothing, or two say the same.
    pub fn of(devices: impl Iterator<Item = &'d D>) -> Result<Self, String> {
        let mut named: Vec<(SpareId, &D)> = Vec::new();
        for (n, device) in devices.enumerate() {
            let found = identify(&mut Named(vec![(FIRST, device)]), FIRST, crc);
            let (_, id) =
                found.unwrap_or_else(|e| panic!("{e}")).ok_or(format!("nothing on device {n}"))?;
            if named.iter().any(|(other, _)| *other == id) {
                return Err(format!("spare {id} twice"));
            }
            named.push((id, device));
        }
        Ok(Named(named))
    }

    /// What activation would find.
    ///
    /// # Errors
    ///
    /// Why they are no set.
    pub fn recover(&mut self) -> Result<Recovered, String> {
        recover(self, crc).map_err(|refusal| refusal.to_string())
    }

    /// The spare with that number.
    pub fn device(&self, spare: SpareId) -> Option<&'d D> {
        self.0.iter().find(|(id, _)| *id == spare).map(|(_, device)| *device)
    }
}

impl<D: Device> Store for Named<'_, D> {
    fn spares(&self) -> SpareSet {
        let mut set = SpareSet::NONE;
        self.0.iter().for_each(|(id, _)| set.add(*id));
        set
    }

    fn sectors(&self, spare: SpareId) -> Sectors {
        Sectors(self.device(spare).map_or(0, Device::sectors))
    }

    fn read(&mut self, batch: &mut [Read]) {
        for read in batch {
            let Some(device) = self.device(read.spare) else {
                read.result = Err(IoError::EIO);
                continue;
            };
            match device.block(read.at) {
                Some(bytes) => read.block.copy_from_slice(bytes),
                None => read.block.fill(0),
            }
            read.result = Ok(());
        }
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        batch.iter_mut().for_each(|write| write.result = Err(IoError::EIO));
    }

    fn flush(&mut self, spares: SpareSet) -> SpareSet {
        spares
    }
}

fn bytes_of(at: SpareSector) -> std::ops::Range<usize> {
    let start = at.0 as usize * 512;
    start..start + BLOCK_SIZE
}
