// SPDX-License-Identifier: GPL-2.0

//! Making the set ours, and letting it go.

use super::{
    construct::{facts, NewSetWish, Said, Takes, Wish},
    engine::{random_number, random_uuid},
    given::{check_set, Unfit},
    identity::{recognise, Seen},
    live::{self, LiveSet},
    Remap,
};
use crate::{
    dm::{
        compat::{synchronize_rcu, ESTALE, EUCLEAN},
        system::{self, MemScope},
    },
    metadata::{self, SpareStore},
    pure::{
        commit::{Metadata, Persist, Relation},
        copies::CopyState,
        create::create,
        entry::Mapping,
        format::{
            header::{Header, NewSet, NewSpare},
            CommitKind, MemberUuid, SetUuid, SpareState,
        },
        identity::{fingerprint, replaced::has_taken_over, Facts, Filesystem, Match},
        mem::KVec,
        places::{Place, Places},
        recovery::{
            members::{Without, KNOWN_AWAY},
            recover_knowing, recover_without, Recovered, Refusal, UNSEEN,
        },
        settings::{self, Setting, Settings},
        store::SpareSet,
        table::Table,
        units::{Sectors, SpareId, MAX_SPARES},
    },
};
use kernel::{
    prelude::*,
    sync::CondVarTimeoutResult,
    time::{delay::fsleep, msecs_to_jiffies, Delta},
};

impl Remap {
    /// `preresume`: makes the set ours. No bio is under way.
    pub(super) fn activate(&self) -> Result {
        let _scope = MemScope::without_io();
        let mut spares = [None; MAX_SPARES];
        for (id, spare) in self.each_spare() {
            if let Some(part) = spares.get_mut(usize::from(id.0)) {
                *part = Some(spare.as_part());
            }
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
            let mut state = self.state.lock();
            state.deactivate();
            // It is not in order, whatever it was before.
            state.info.persist = Persist::Failed;
            drop(state);
            live::release(self.number());
        }
        result
    }

    fn take_over(&self) -> Result {
        let mut store = self.whole_store();
        let mut wish = self.wish.lock();
        let (mut meta, was_away, (by, seen)) = match &wish.create {
            Some(new) => {
                let meta = self.create(&mut store, new)?;
                // What was begun by another line is not for this one to finish.
                let known = self.must_fit(meta.header(), meta.table(), wish.said)?;
                (meta, SpareSet::NONE, known)
            }
            None => self.recover(&mut store, &wish)?,
        };
        wish.found = None;
        wish.create = None;
        self.take_monitor(meta.header());
        self.mark_roles(meta.active(), meta.away());
        let places = self.places(meta.header(), meta.table())?;
        self.state.lock().activate(&meta, places);
        // Only a table that cannot have the set know says it each time: whom the set knows to be away may come back, or leave.
        if self.may_change(meta.header()) {
            wish.absent.clear();
        }
        let by = match by {
            Some(by) => by,
            None => {
                wish.main_before.get_or_insert(meta.header().raw().main);
                self.take_new_main(&mut meta, seen, wish.said.takes)?;
                let known = recognise(meta.header(), &self.main, seen.tells(true), Said::default());
                known.map_err(|what| self.unfit(&what))?.ok_or(EINVAL)?
            }
        };
        // What has come about is not asked for again when this fails and the device is resumed once more.
        wish.said = Said { grow: wish.said.grow, ..Said::default() };
        let mut state = self.state.lock();
        let view = state.view(None)?;
        let retired = self.front.replace(view, &state.drawn);
        drop(state);
        drop(retired);
        if wish.said.grow {
            self.grow(&mut meta)?;
            wish.said.grow = false;
        }
        self.set_by_line(&mut meta, &mut wish.settings, seen);
        drop(wish);
        if self.debt.take() {
            self.main.cache.owe();
        }
        self.recognised(by);
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
        self.state.lock().live = true;
        Ok(())
    }

    /// Puts the settings of the line in force, and keeps them and what main is recognised by now.
    #[inline(never)]
    fn set_by_line(
        &self,
        meta: &mut Metadata,
        settings: &mut KVec<(&'static Setting, u64)>,
        seen: Seen,
    ) {
        // A person who has set something since does so by a commit, which keeps these first: they are not
        // set once more by a resume. A read-only table has them in force as long as it is used.
        let before = meta.settings();
        let changed = meta.put_settings(core::mem::take(settings));
        let mut kept = false;
        if self.writable {
            let main = self.renewed_main(meta.header(), seen.of_the_set);
            let kind = match changed {
                true => Some(CommitKind::Settings),
                false => main.map(|_| CommitKind::Identity),
            };
            if let Some(kind) = kind {
                let put = |header: &mut Header| {
                    header.raw_mut().main = main.unwrap_or(header.raw().main);
                };
                // What failed has been said; the set is as good as it was.
                kept = self.commit(meta, kind, None, put, |_| ()).is_ok();
                if !kept && changed {
                    log_warn!(
                        "{self}: the settings of the table are in force, and not kept yet; the next commit that comes about keeps them"
                    );
                }
            }
        }
        // What nobody could keep was in force already, if this is not the first time.
        if changed && (kept || self.identity.lock().by.is_none()) {
            self.tell_of_settings(&before, &meta.settings());
        }
    }

    /// Has the set take the length of the table. Nothing may be remapped behind the end that the set knows,
    /// so it is not used before that is durable.
    fn grow(&self, meta: &mut Metadata) -> Result {
        let len = self.main.len.0;
        if meta.header().raw().set.main_sectors.get() == len {
            return Ok(());
        }
        let put = |header: &mut Header| header.raw_mut().set.main_sectors.set(len);
        self.commit(meta, CommitKind::Resize, None, put, |_| ()).map_err(|_| EIO)?;
        log_info!("{self}: the set has {len} sectors now");
        Ok(())
    }

    fn create(&self, store: &mut SpareStore<'_>, new: &NewSetWish) -> Result<Metadata> {
        let name = match &new.name {
            Some(name) => name.to_str().map_err(|_| EINVAL)?,
            None => "",
        };
        let set = NewSet {
            uuid: SetUuid(random_uuid()),
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
                uuid: random_uuid(),
                fingerprint: fingerprint(&facts(spare.block(), "")),
                used_start: Sectors(spare.start),
                used_sectors: spare.len,
            };
            members.push(member, GFP_KERNEL)?;
        }
        let filesystem = self.filesystem_of_main();
        let main = fingerprint(&Facts { filesystem, ..facts(self.main.device.block(), "") });
        let line = kernel::str::CString::try_from_fmt(format_args!(
            "{}",
            crate::controls::Line::new(self)
        ))?;
        create(store, &set, &members, new.overwrite, system::crc32, |header| {
            header.raw_mut().main = main;
            header.set_line(line.to_str().unwrap_or_default());
        })
        .map_err(|e| {
            self.say_error(format_args!("{e}"));
            EIO
        })
    }

    /// The set on the spares, who was away before, and how main is known.
    fn recover(
        &self,
        store: &mut SpareStore<'_>,
        wish: &Wish,
    ) -> Result<(Metadata, SpareSet, (Option<Match>, Seen))> {
        // Who has gone away while the table was in use is known to be away.
        let mut known = self.degraded || !self.state.lock().info.away.is_empty();
        let mut absent = KVec::new();
        absent.extend_from_slice(&wish.absent, GFP_KERNEL)?;
        // Those that answer again, after they did not.
        let mut back = 0;
        // Those that answer as what is not the set's, and why they are not.
        let mut strangers: KVec<(SpareId, Refusal)> = KVec::new();
        let mut left_behind = self.left_behind();
        let uuid = self.state.lock().info.uuid;
        let found = loop {
            let without = Without { absent: &absent, away: known || !absent.is_empty() };
            match recover_knowing(store, &without, wish.found.as_ref(), system::crc32) {
                Ok(found) => break found,
                Err(Refusal::Missing(spare, uuid))
                    if self.has_died(spare, uuid)
                        && !absent.contains(&uuid)
                        && strangers.iter().all(|(stranger, _)| *stranger != spare) =>
                {
                    let spare = self.device_of(spare);
                    log_warn!("{self}: {spare} is gone; the set goes on without it");
                    absent.push(uuid, GFP_KERNEL)?;
                }
                // Since this table was loaded.
                Err(Refusal::Away(spare, uuid)) if !without.away && self.has_died(spare, uuid) => {
                    known = true;
                }
                Err(Refusal::NotAbsent(spare, uuid))
                    if !wish.absent.contains(&uuid) && back < MAX_SPARES =>
                {
                    log_info!("{self}: {} answers again", self.device_of(spare));
                    absent.retain(|other| *other != uuid);
                    back += 1;
                }
                Err(e) => {
                    if let Some(spare) = named(&e, left_behind, uuid) {
                        left_behind = left_behind.without(SpareSet::one(spare));
                        store.hide(spare);
                        strangers.push((spare, e), GFP_KERNEL)?;
                        continue;
                    }
                    // Without it nothing is missed but it: then it is away no more.
                    let missed =
                        |of: &SpareId| matches!(e, Refusal::Missing(spare, _) if spare == *of);
                    let why = strangers.iter().find(|(stranger, _)| missed(stranger));
                    self.say_error(format_args!("{}", why.map_or(e, |(_, why)| *why)));
                    return Err(EIO);
                }
            }
        };
        if let Some(left_at) = self.debt.left_behind_by(found.header()) {
            let (set, version) = (found.header().uuid(), found.header().version());
            self.say_error(format_args!(
                "what the spares have, version {version} of set {set}, does not come from version {left_at}, which this device had in use: they are clones or older images, or lack the one that is newest; give those that were in use, or remove the device first and create it anew to go on with what these have"
            ));
            return Err(ESTALE);
        }
        let said = self.still_said(found.header(), wish);
        let known = self.must_fit(found.header(), found.table(), said)?;
        for (spare, why) in &strangers {
            self.say_error(format_args!("{why}; {} stays away", self.device_of(*spare)));
        }
        let was_away = found.header().in_state(SpareState::Away);
        Ok((self.rebuild(store, found)?, was_away, known))
    }

    /// Whether a member that does not answer was in use here on the device that this table has for it: the set would have gone on
    /// without it there too. One that the table leaves out, as it was loaded before that one joined perhaps, may be in the best of health.
    fn has_died(&self, spare: SpareId, uuid: MemberUuid) -> bool {
        let given = self.each_spare().any(|(id, _)| id == spare);
        given && self.state.lock().info.members.get(usize::from(spare.0)) == Some(&uuid)
    }

    /// The members in this table that the set went on without when the table let it go: nothing of it has come to
    /// them since.
    fn left_behind(&self) -> SpareSet {
        if self.identity.lock().by.is_none() {
            return SpareSet::NONE;
        }
        let away = self.state.lock().info.away;
        let mut behind = SpareSet::NONE;
        let all = self.each_spare().map(|(id, _)| id);
        all.filter(|&id| away.has(id)).for_each(|id| behind.add(id));
        behind
    }

    /// What a person says of main, without what has come about by a commit of which an earlier activation of this table
    /// did not learn that.
    fn still_said(&self, header: &Header, wish: &Wish) -> Said {
        let has_come_about = |before| match wish.said.takes {
            Takes::No => false,
            // With a copy main stays what it was, and to say so once more changes nothing.
            Takes::New => has_taken_over(header, before),
            Takes::Back => !header.is_replacing(),
        };
        if !wish.main_before.as_ref().is_some_and(has_come_about) {
            return wish.said;
        }
        log_info!(
            "{self}: what was in doubt has come about: the set has the main that was asked for"
        );
        Said { takes: Takes::No, ..wish.said }
    }

    fn must_fit(
        &self,
        header: &Header,
        table: &Table,
        said: Said,
    ) -> Result<(Option<Match>, Seen)> {
        let seen = self.see(table, header.in_state(SpareState::Active));
        let vouched = self.identity.lock().vouched;
        let checked = check_set(header, &self.main, &self.spares, seen.tells(vouched), said);
        let by = checked.map_err(|what| self.unfit(&what))?;
        Ok((by, seen))
    }

    fn unfit(&self, what: &Unfit) -> Error {
        self.say_error(format_args!("{what}"));
        EINVAL
    }

    /// Whether what was found may be changed: who is not there is known to be away then.
    fn may_change(&self, header: &Header) -> bool {
        self.writable && !header.read_only()
    }

    /// Brings all copies to what was found; a read-only table leaves them as they are.
    fn rebuild(&self, store: &mut SpareStore<'_>, mut found: Recovered) -> Result<Metadata> {
        let settings = &found.header().raw().settings;
        if Settings::get_raw(settings, &settings::MAINTENANCE_MODE) != 0 {
            found.leave_away();
        }
        if !self.may_change(found.header()) {
            return Ok(found.into_metadata());
        }
        if !found.is_clean() {
            log_warn!("{self}: copies of the metadata are out of date or damaged; rebuilding them");
        }
        let good = found.copies().in_state(CopyState::Good);
        let meta = found.rebuild(store, system::real_seconds(), random_number()).map_err(|e| {
            self.say_error(format_args!("{e}"));
            EIO
        })?;
        let rebuilt = meta.copies().in_state(CopyState::Good).without(good);
        self.counters.activated(rebuilt.iter().count() as u64);
        Ok(meta)
    }

    /// What is free on the spares, by the table.
    fn places(&self, header: &Header, table: &Table) -> Result<KVec<Places>> {
        let members = header.in_state(SpareState::Active).with(header.in_state(SpareState::Away));
        let mut all = KVec::with_capacity(MAX_SPARES, GFP_KERNEL)?;
        for id in (0..MAX_SPARES as u8).map(SpareId) {
            let mut regions = KVec::new();
            let spare = self.spare(id).filter(|_| members.has(id));
            let len = spare.map_or(Sectors(0), |spare| spare.len);
            for (start, len) in header.layout().data_space(len).filter(|_| len.0 > 0) {
                regions.push(Place { start, len }, GFP_KERNEL)?;
            }
            all.push(Places::new(&regions, self.block_sectors())?, GFP_KERNEL)?;
        }
        for entry in table.iter() {
            let (spare, to, retired) = match entry.mapping {
                Mapping::Remapped { spare, to } | Mapping::Suspect { spare, to } => {
                    (spare, to, false)
                }
                Mapping::Retired { spare, at } => (spare, at, true),
                Mapping::Pending | Mapping::Lost => continue,
            };
            let place = Place { start: to, len: entry.extent.len };
            let mark = |places: &mut Places| match places.mark_used(place) {
                Ok(()) if retired => places.retire(place),
                result => result,
            };
            let member = members.has(spare);
            // A read-only table may do without one that is not known to be away.
            let gone = self.spare(spare).is_none() && member;
            if gone || retired && !member {
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
            let waited =
                self.job_ended.wait_interruptible_timeout(&mut state, msecs_to_jiffies(20));
            if let CondVarTimeoutResult::Signal { .. } = waited {
                // Who suspends the device cannot give up here, and is not to keep the lock from others.
                drop(state);
                fsleep(Delta::from_millis(20));
                state = self.state.lock();
            }
        }
    }

    /// Waits for all that was asked of a queue.
    pub(super) fn drain_queues(&self) {
        // The scan may ask the others for something.
        self.scan_queue.drain();
        self.queue.drain();
    }

    /// `postsuspend`: lets the set go, with everything durable. No bio is under way.
    pub(super) fn deactivate(&self) {
        let _scope = MemScope::without_io();
        // Those in one of the files who wait for their turn give up, and the others are waited for.
        self.state.lock().closing = true;
        let files = self.files.lock().take();
        drop(files);
        // Who has handed over a bio may not have queued the work for it yet.
        synchronize_rcu();
        self.drain_queues();
        let meta = self.meta.lock().take();
        if let Some(mut meta) = meta {
            let main = self.main_anew(&meta);
            let news = !self.counters.errors().is_none() || self.has_monitored(meta.header());
            let unkept = meta.has_unkept();
            if self.writable && (meta.in_doubt() || news || main.is_some() || unkept) {
                let put = |header: &mut Header| {
                    header.raw_mut().main = main.unwrap_or(header.raw().main);
                };
                // What failed has been said; there is nobody to tell more.
                let _ = self.commit_or_repair(&mut meta, CommitKind::Save, put);
            }
            if self.writable {
                self.debt.leave_at(meta.header());
            }
            // The line still asks for them if it is resumed.
            self.wish.lock().settings = meta.take_unkept();
        }
        if self.writable {
            let _ = metadata::flush(&self.spares, self.usable_spares(), &self.pool);
        }
        let lost = self.main.cache.has_lost() || self.each_spare().any(|(_, s)| s.cache.has_lost());
        // The data behind a flush that failed may be waiting for the device to be used again.
        if lost || self.flushes.has_failed() {
            self.debt.leave();
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
        if self.state.lock().migration.is_some() {
            self.say_error(format_args!(
                "a spare is being removed or replaced; wait for that, or stop it with 'stop'"
            ));
            return Err(EBUSY);
        }
        let mut store = self.store();
        let found = match recover_without(&mut store, &KNOWN_AWAY, system::crc32) {
            Ok(found) => found,
            Err(e) => {
                let left = meta.refused(&mut store, &e);
                self.note(meta);
                self.say_error(format_args!(
                    "{e}; nothing was taken over, 'save' writes what is in use"
                ));
                return Err(left.map_or(ENOMEM, |_| EIO));
            }
        };
        let highest = found.highest_of(meta.header().uuid());
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
            Relation::Descendant => {
                let seen = Filesystem::Unknown;
                check_set(found.header(), &self.main, &self.spares, seen, Said::default())
                    .err()
                    .map(|_| "made for other devices")
            }
            Relation::Ancestor => Some("older than what is in use"),
            Relation::Conflict => Some("in conflict with what is in use"),
            Relation::OtherSet => Some("another set's"),
        };
        if let Some(what) = refused {
            meta.copies_overwritten(highest);
            self.note(meta);
            self.say_error(format_args!(
                "what is on the spares is {what}; nothing was taken over, 'save' writes what is in use"
            ));
            return Err(ESTALE);
        }
        // Nothing is written before all is there that is needed to use it.
        let places = self.places(found.header(), found.table());
        let taken = places.and_then(|places| Ok((self.rebuild(&mut store, found)?, places)));
        let (mut new, places) = taken.inspect_err(|_| {
            // A rebuild that has failed may have used versions too.
            meta.copies_overwritten(highest.saturating_add(UNSEEN));
            self.note(meta);
        })?;
        new.put_settings(meta.take_unkept());
        let mut state = self.state.lock();
        state.take(&new, places);
        *meta = new;
        drop(state);
        self.note(meta);
        self.refresh_folders();
        Ok(())
    }
}

/// Which of these members the set `uuid` is refused for, by what stands there.
fn named(why: &Refusal, members: SpareSet, uuid: SetUuid) -> Option<SpareId> {
    let one_of = |spare: SpareId| Some(spare).filter(|&spare| members.has(spare));
    match *why {
        Refusal::NotMember(spare, _)
        | Refusal::Shrunk { spare, .. }
        | Refusal::Older { spare, .. } => one_of(spare),
        // The first is the newest that is whole.
        Refusal::Conflict(a, b) => one_of(a.id.spare).or_else(|| one_of(b.id.spare)),
        Refusal::OtherSet(id, set) if set != uuid => one_of(id.spare),
        // What was read before that is another's.
        Refusal::OtherSet(id, _) => members.iter().find(|spare| *spare < id.spare),
        _ => None,
    }
}
