//! When to mail: a burst is one mail, and a drive that dies slowly is not a thousand.

use std::time::{Duration, Instant};

/// The longest that a mail waits.
const LONGEST: Duration = Duration::from_secs(3600);

/// Collects what happens within some time of the first into one mail. While one burst follows another, that time doubles, up to an hour;
/// when nothing has happened for twice as long, it is what it was.
#[derive(Clone, Debug)]
pub struct Burst<T> {
    least: Duration,
    delay: Duration,
    sent: Option<Instant>,
    due: Option<Instant>,
    kept: Vec<T>,
}

impl<T> Burst<T> {
    /// The most that is kept for one mail; what came first says most.
    pub const KEPT: usize = 1000;

    /// With mails that wait for `least` after the first.
    pub fn new(least: Duration) -> Self {
        Self { least, delay: least, sent: None, due: None, kept: Vec::new() }
    }

    /// Something for the next mail.
    pub fn add(&mut self, what: T, now: Instant) {
        if self.due.is_none() {
            let recent = |sent: Instant| now.saturating_duration_since(sent) < self.delay * 2;
            self.delay = match self.sent.is_some_and(recent) {
                true => (self.delay * 2).min(LONGEST.max(self.least)),
                false => self.least,
            };
            self.due = Some(now + self.delay);
        }
        if self.kept.len() < Self::KEPT {
            self.kept.push(what);
        }
    }

    /// When the next mail goes.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What goes into a mail now, if it is time.
    pub fn take(&mut self, now: Instant) -> Vec<T> {
        match self.due {
            Some(due) if now >= due => self.take_all(now),
            _ => Vec::new(),
        }
    }

    /// What has not been mailed, time or not.
    pub fn take_all(&mut self, now: Instant) -> Vec<T> {
        if self.due.take().is_some() {
            self.sent = Some(now);
        }
        std::mem::take(&mut self.kept)
    }

    /// That could not be mailed; it goes with the next one.
    pub fn give_back(&mut self, mut what: Vec<T>, now: Instant) {
        let later = std::mem::take(&mut self.kept);
        what.extend(later);
        self.due = None;
        what.into_iter().for_each(|what| self.add(what, now));
    }
}
