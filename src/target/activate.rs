// SPDX-License-Identifier: GPL-2.0

//! Making the set ours, and letting it go.

use super::{
    construct::{check_set, facts, NewSetWish, Wish},
    engine::random_number,
    live::{self, LiveSet},
    spare::Spare,
    view::View,
    Remap,
};
use crate::{
    dm::system::{self, MemScope},
    metadata::{self, SpareStore},
    pure::{
        commit::{Metadata, Persist, Relation},
        create::create,
        entry::Mapping,
        format::{
            header::{Header, NewSet, NewSpare},
            CommitKind, MemberUuid, SetUuid, SpareState,
        },
        identity::fingerprint,
        mem::KVec,
        places::{Place, Places},
        recovery::{
            members::{Without, KNOWN_AWAY},
            recover_without, Recovered,
        },
        store::SpareSet,
        units::{Sectors, MAX_SPARES},
    },
};
use kernel::{prelude::*, sync::rcu, time::msecs_to_jiffies};

impl Remap {
    /// `preresume`: makes the set ours. No bio is under way.
    pub(super) fn activate(&self) -> Result {
        let _scope = MemScope::without_io();
        let mut spares = [None; MAX_SPARES];
        for (part, spare) in spares.iter_mut().zip(&self.spares) {
            *part = spare.as_ref().map(Spare::as_part);
        }
        let set = LiveSet {
            owner: self.number(),
            main: self.main.as_part(),
            spares,
            set: SetUuid::default(),
            uuids: [MemberUuid::default(); MAX_SPARES],
            active: SpareSet::NONE,
            away: SpareSet::NONE,
        };
        live::claim(set).inspect_err(|_| {
            self.say_error(format_args!("main or spare is in use by another remap device"));
        })?;
        let result = self.take_over();
        if result.is_err() {
            self.state.lock().deactivate();
            live::release(self.number());
        }
        result
    }

    fn take_over(&self) -> Result {
        let mut store = self.whole_store();
        let mut wish = self.wish.lock();
        let (mut meta, was_away) = match &wish.create {
            Some(new) => {
                let meta = self.create(&mut store, new)?;
                // What was begun by another line is not for this one to finish.
                self.must_fit(meta.header())?;
                (meta, SpareSet::NONE)
            }
            None => self.recover(&mut store, &wish)?,
        };
        wish.create = None;
        self.take_monitor(meta.header());
        self.mark_away(meta.away());
        let places = self.places(&meta)?;
        let mut state = self.state.lock();
        state.activate(&meta, places);
        let view = View::boxed(state.table.clone(), 0)?;
        let retired = self.published.replace(view);
        drop(state);
        drop(retired);
        if self.writable {
            let mut settings = meta.settings();
            settings.put_all(&wish.settings);
            let changed = settings != meta.settings();
            if changed {
                let put = |header: &mut Header| settings.to_raw(&mut header.raw_mut().settings);
                // What failed has been said; the set is as good as it was.
                let _ = self.commit(&mut meta, CommitKind::Settings, None, put, |_| ());
            }
            // What a person has set since is not to be set back by a resume.
            wish.settings.clear();
        }
        drop(wish);
        self.note(&meta);
        self.tell_of_members(&meta, was_away);
        log_info!(
            "{self}: set {} {} is active, version {}, {} sectors remapped, {} pending",
            meta.header().uuid(),
            meta.header().name(),
            meta.version(),
            meta.table().totals().remapped,
            meta.table().totals().pending
        );
        *self.meta.lock() = Some(meta);
        Ok(())
    }

    fn create(&self, store: &mut SpareStore<'_>, new: &NewSetWish) -> Result<Metadata> {
        let uuid = || {
            let mut bytes = [0; 16];
            system::random(&mut bytes);
            // Version 4, variant 1, as RFC 9562 has random UUIDs.
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            bytes
        };
        let name = match &new.name {
            Some(name) => name.to_str().map_err(|_| EINVAL)?,
            None => "",
        };
        let set = NewSet {
            uuid: SetUuid(uuid()),
            history: random_number(),
            name,
            time: system::real_seconds(),
            layout: new.layout,
            main_sectors: self.main.len,
            main_start: Sectors(self.main.start),
            line: "",
        };
        let mut members = KVec::new();
        for (_, spare) in self.each_spare() {
            let member = NewSpare {
                uuid: uuid(),
                fingerprint: fingerprint(&facts(spare.block(), "")),
                used_start: Sectors(spare.start),
                used_sectors: spare.len,
            };
            members.push(member, GFP_KERNEL)?;
        }
        let main = fingerprint(&facts(self.main.device.block(), ""));
        let line =
            kernel::str::CString::try_from_fmt(format_args!("{}", crate::controls::Line(self)))?;
        create(store, &set, &members, new.overwrite, system::crc32, |header| {
            header.raw_mut().main = main;
            header.set_line(line.to_str().unwrap_or_default());
        })
        .map_err(|e| {
            self.say_error(format_args!("{e}"));
            EIO
        })
    }

    /// The set on the spares, and who was away before.
    fn recover(&self, store: &mut SpareStore<'_>, wish: &Wish) -> Result<(Metadata, SpareSet)> {
        // Who has gone away while the table was in use is known to be away.
        let known = self.degraded || !self.state.lock().info.away.is_empty();
        let without = Without { absent: &wish.absent, away: known || !wish.absent.is_empty() };
        let found = recover_without(store, &without, system::crc32).map_err(|e| {
            self.say_error(format_args!("{e}"));
            EIO
        })?;
        self.must_fit(found.header())?;
        let was_away = found.header().in_state(SpareState::Away);
        Ok((self.rebuild(store, found)?, was_away))
    }

    fn must_fit(&self, header: &Header) -> Result {
        check_set(header, &self.main, &self.spares).map_err(|what| {
            self.say_error(format_args!("{what}"));
            EINVAL
        })
    }

    /// Brings all copies to what was found; a read-only table leaves them as they are.
    fn rebuild(&self, store: &mut SpareStore<'_>, found: Recovered) -> Result<Metadata> {
        if !self.writable || found.header().read_only() {
            return Ok(found.into_metadata());
        }
        if !found.is_clean() {
            log_warn!("{self}: copies of the metadata are out of date or damaged; rebuilding them");
        }
        found.rebuild(store, system::real_seconds(), random_number()).map_err(|e| {
            self.say_error(format_args!("{e}"));
            EIO
        })
    }

    /// What is free on the spares, by the table.
    fn places(&self, meta: &Metadata) -> Result<KVec<Places>> {
        let mut all = KVec::with_capacity(self.spares.len(), GFP_KERNEL)?;
        for spare in &self.spares {
            let mut regions = KVec::new();
            let len = spare.as_ref().map_or(Sectors(0), |spare| spare.len);
            for (start, len) in meta.header().layout().data_space(len).filter(|_| len.0 > 0) {
                regions.push(Place { start, len }, GFP_KERNEL)?;
            }
            all.push(Places::new(&regions, self.block_sectors())?, GFP_KERNEL)?;
        }
        for entry in meta.table().iter() {
            let (spare, to, retired) = match entry.mapping {
                Mapping::Remapped { spare, to } | Mapping::Suspect { spare, to } => {
                    (spare, to, false)
                }
                Mapping::Retired { spare, at } => (spare, at, true),
                Mapping::Pending => continue,
            };
            let place = Place { start: to, len: entry.extent.len };
            let mark = |places: &mut Places| match places.mark_used(place) {
                Ok(()) if retired => places.retire(place),
                result => result,
            };
            if self.spare(spare).is_none() && meta.away().has(spare) {
                continue;
            }
            let marked = all.get_mut(usize::from(spare.0)).map(mark);
            let start = entry.extent.start;
            match marked {
                Some(Ok(())) if retired || entry.extent.end().0 <= self.main.len.0 => continue,
                Some(Err(e)) => self.say_error(format_args!(
                    "the table contradicts itself: sector {start} of main lies at {to}: {e}"
                )),
                _ => self.say_error(format_args!(
                    "the table contradicts itself: sector {start} of main is out of range"
                )),
            }
            return Err(EUCLEAN);
        }
        Ok(all)
    }

    /// `presuspend`: no move begins any more, and those that run come to an end.
    pub(super) fn stop_moves(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.jobs.iter().for_each(|job| job.stop());
        self.wake.notify_all();
        self.gathered.notify_all();
        // What is looked at comes to an end too; a rescue has a caller who waits, and goes on.
        loop {
            drop(state);
            let looks_over = self.rescues.lock().stop_looks();
            state = self.state.lock();
            if looks_over && state.jobs.is_empty() {
                break;
            }
            // Looked at again now and then: looks are not counted under this lock.
            let _ = self.job_ended.wait_interruptible_timeout(&mut state, msecs_to_jiffies(20));
        }
    }

    /// `postsuspend`: lets the set go, with everything durable. No bio is under way.
    pub(super) fn deactivate(&self) {
        let _scope = MemScope::without_io();
        // Waits for who is in one of them.
        let files = self.files.lock().take();
        drop(files);
        // Who has handed over a bio may not have queued the work for it yet.
        rcu::synchronize_rcu();
        self.queue.drain();
        let meta = self.meta.lock().take();
        if let Some(mut meta) = meta {
            let news = !self.counters.errors().is_none() || self.has_monitored(meta.header());
            if self.writable && (meta.in_doubt() || news) {
                // What failed has been said; there is nobody to tell more.
                let _ = self.commit_or_repair(&mut meta, CommitKind::Save, |_| {});
            }
        }
        if self.writable {
            let _ = metadata::flush(&self.spares, self.usable_spares(), &self.pool);
        }
        self.state.lock().deactivate();
        live::release(self.number());
    }

    /// Reads the spares again and takes over what came from what is in memory. All I/O is held.
    pub(super) fn restore_held(&self) -> Result {
        // What is free is found out anew: nobody may be about to retire a free place. Who comes to that
        // later sees this job, see `look_at_place`.
        let state = self.state.lock();
        if state.holds.iter().any(|hold| hold.extent.start.0 >= self.main.len.0) {
            drop(state);
            self.say_error(format_args!("a place on a spare is being looked at; try again"));
            return Err(EBUSY);
        }
        drop(state);
        let mut guard = self.meta.lock();
        let meta = (*guard).as_mut().ok_or(EBUSY)?;
        let mut store = self.store();
        let found = match recover_without(&mut store, &KNOWN_AWAY, system::crc32) {
            Ok(found) => found,
            Err(e) => {
                meta.copies_overwritten();
                self.note(meta);
                self.say_error(format_args!("{e}; 'save' writes what is in use"));
                return Err(EIO);
            }
        };
        let refused = match meta.relation(found.header()) {
            Relation::Same => {
                meta.copies_read(found.copies());
                if self.writable && meta.persist() != Persist::Enabled {
                    // What cannot be written is left out, and says so in the status.
                    let _ = meta.repair(&mut store);
                }
                self.note(meta);
                return Ok(());
            }
            Relation::Descendant => check_set(found.header(), &self.main, &self.spares)
                .err()
                .map(|_| "made for other devices"),
            Relation::Ancestor => Some("older than what is in use"),
            Relation::Conflict => Some("in conflict with what is in use"),
            Relation::OtherSet => Some("another set's"),
        };
        if let Some(what) = refused {
            meta.copies_overwritten();
            self.note(meta);
            self.say_error(format_args!(
                "what is on the spares is {what}; nothing was taken over, 'save' writes what is in use"
            ));
            return Err(ESTALE);
        }
        let new = self.rebuild(&mut store, found)?;
        let places = self.places(&new)?;
        let mut state = self.state.lock();
        state.take(&new, places);
        *meta = new;
        drop(state);
        self.note(meta);
        Ok(())
    }
}
