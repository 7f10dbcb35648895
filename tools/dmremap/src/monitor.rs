//! `monitor`: follows the sets in use, and tells people and programs what happens to them.
//!
//! Device mapper says that something has happened, a uevent says what, and `metadata_status` how it is since. Where a uevent is missing,
//! what has changed says what must have happened. The drives under the sets are asked from time to time, on a thread of its own.

mod kernel;
mod tell;

use crate::live::{Live, Mapper};
use crate::{Failure, Outcome};
use dmremap::devices::members;
use dmremap::recovery_time::{self, drives};
use dmremap::smart::Smart;
use dmremap::watch::events::{self, Event, Priority};
use dmremap::watch::metrics;
use dmremap::watch::settings::{address, Settings};
use dmremap::watch::state::State;
use kernel::Kernel;
use sd_notify::NotifyState;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use tell::{journal, Alert, Teller, Whom};

/// How long to wait for the uevent that says what has happened. The kernel sends it right behind the event.
const UEVENT: Duration = Duration::from_secs(2);

/// For how long what happens is gathered before it is looked at.
const GATHER: Duration = Duration::from_millis(200);

/// When to ask again a set that did not answer, as one that is suspended.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub struct Arguments {
    /// Mail to this address what somebody should look at; may be given several times
    #[arg(long, value_name = "ADDRESS", value_parser = |word: &str| address(word).map(str::to_owned))]
    mail: Vec<String>,
    /// Collect what happens within so many seconds into one mail
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(..=86400))]
    mail_delay: u64,
    /// Run this program for each event, as PROGRAM EVENT DEVICE DETAILS
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// Write the counts to this file, for the textfile collector of Prometheus' node_exporter
    #[arg(long, value_name = "FILE")]
    prometheus: Option<PathBuf>,
    /// Write that file at least so often, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86400))]
    interval: u64,
    /// Ask the drives so often, in seconds; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = clap::value_parser!(u64).range(..=31536000))]
    smart_interval: u64,
    /// Read MAILADDR, PROGRAM and PROMETHEUS from this file
    #[arg(long, value_name = "FILE", default_value = "/etc/dmremap.conf")]
    config: PathBuf,
    /// Look once, tell what is wrong, and end
    #[arg(long)]
    once: bool,
    /// Send a test to each who would be told, and end
    #[arg(long)]
    test: bool,
}

/// What the drives under the sets say, by set and by name of the drive.
type Answers = Vec<(String, String, Result<Smart, String>)>;

/// A set that is followed.
struct Watched {
    live: Live,
    /// Tells it from another one that has had its name and its number since.
    sequence: String,
    /// How it was when it was last looked at, and when somebody was last told.
    state: State,
    told: State,
    /// What uevents have said since then.
    reasons: BTreeSet<String>,
    /// When to look closely.
    due: Option<Instant>,
    events: BTreeMap<String, u64>,
    drives: BTreeMap<String, metrics::Drive>,
}

struct Monitor {
    mapper: Mapper,
    teller: Teller,
    prometheus: Option<PathBuf>,
    sets: BTreeMap<String, Watched>,
    has_uevents: bool,
    /// What cannot be done at present, so that it is said once.
    complaints: BTreeMap<&'static str, Failure>,
    /// Drives whose recovery time was told of.
    warned: BTreeSet<String>,
    /// Whether there is a set that is not active yet.
    waiting: bool,
}

/// Follows the sets until it is told to end.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let (settings, wrong) = settings(arguments);
    // Whoever can be told is told.
    wrong.iter().for_each(|what| journal(Priority::Error, what));
    let whom = Whom {
        mail: settings.mail,
        delay: Duration::from_secs(arguments.mail_delay),
        program: settings.program,
    };
    if arguments.test {
        let outcome = test(&whom, settings.prometheus.as_deref())?;
        return match wrong.is_empty() {
            true => Ok(outcome),
            false => Err("not everything in the configuration is understood".into()),
        };
    }
    let mapper = Mapper::open()?;
    let mut kernel = Kernel::listen()?;
    let mut monitor = Monitor {
        mapper,
        teller: Teller::start(whom),
        prometheus: settings.prometheus,
        sets: BTreeMap::new(),
        has_uevents: kernel.has_uevents(),
        complaints: BTreeMap::new(),
        warned: BTreeSet::new(),
        waiting: false,
    };
    let result = match arguments.once {
        true => monitor.once(arguments.smart_interval != 0),
        false => monitor.follow(&mut kernel, arguments),
    };
    monitor.teller.finish();
    result
}

/// What the command line says, and for the rest the configuration; and what of that says nothing.
fn settings(arguments: &Arguments) -> (Settings, Vec<String>) {
    let path = &arguments.config;
    let (mut settings, wrong) = match fs::read(path) {
        Ok(text) => {
            let (settings, mistakes) = Settings::parse(&text);
            (settings, mistakes.iter().map(ToString::to_string).collect())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => (Settings::default(), Vec::new()),
        Err(e) => (Settings::default(), vec![e.to_string()]),
    };
    if !arguments.mail.is_empty() {
        settings.mail.clone_from(&arguments.mail);
    }
    settings.program = arguments.program.clone().or(settings.program);
    settings.prometheus = arguments.prometheus.clone().or(settings.prometheus);
    let wrong = wrong.iter().map(|what| format!("{}: {what}", path.display())).collect();
    (settings, wrong)
}

/// Sends a test to everybody, and says how that went.
fn test(whom: &Whom, prometheus: Option<&Path>) -> Result<Outcome, Failure> {
    let alert = Alert {
        event: events::TEST,
        name: events::TEST.name.into(),
        device: String::new(),
        set: "dmremap monitor".into(),
        details: String::new(),
        values: Vec::new(),
    };
    journal(alert.event.priority, &alert.line());
    let mut tried = Vec::new();
    if let Some(program) = &whom.program {
        tried.push((format!("program {}", program.display()), whom.run_program(program, &alert)));
    }
    if !whom.mail.is_empty() {
        let mailed = whom.send_mail(std::slice::from_ref(&alert));
        tried.push((format!("mail to {}", whom.mail.join(", ")), mailed));
    }
    if let Some(file) = prometheus {
        let sets = Mapper::open().and_then(|mapper| {
            let told = |live: Live| {
                let state = State::parse(&mapper.message(&live, "metadata_status")?);
                Ok(metrics::Set {
                    name: live.name,
                    state,
                    events: BTreeMap::new(),
                    drives: Vec::new(),
                })
            };
            mapper.all()?.into_iter().map(told).collect::<Result<Vec<_>, _>>()
        });
        let written = sets.and_then(|sets| write(file, &metrics::text(&sets)));
        tried.push((format!("file {}", file.display()), written));
    }
    if tried.is_empty() {
        return Err(
            "nobody is told but the journal; give --mail, --program or --prometheus, or name them in the configuration".into(),
        );
    }
    let mut failed = 0;
    for (what, result) in tried {
        let how = result.err().map_or("done".into(), |e| format!("failed: {e}"));
        failed += usize::from(how != "done");
        crate::text::print(|out| writeln!(out, "{what}: {how}"))?;
    }
    match failed {
        0 => Ok(Outcome::Well),
        n => Err(format!("{n} of the tests failed")),
    }
}

impl Monitor {
    /// Looks at everything once.
    fn once(&mut self, smart: bool) -> Result<Outcome, Failure> {
        self.look(&mut BTreeMap::new(), Instant::now())?;
        if smart {
            let answers = ask(self.work());
            self.take(answers);
        }
        self.write()?;
        match self.sets.values().all(|set| set.state.is_healthy()) {
            true => Ok(Outcome::Well),
            false => Ok(Outcome::Damaged),
        }
    }

    fn follow(&mut self, kernel: &mut Kernel, arguments: &Arguments) -> Result<Outcome, Failure> {
        let interval = Duration::from_secs(arguments.interval);
        let smart = Duration::from_secs(arguments.smart_interval);
        let (mut next_write, mut next_smart) = (Instant::now(), Instant::now());
        let mut asked: Option<Receiver<Answers>> = None;
        let mut ready = false;
        while !kernel.is_over() {
            // Before looking: what happens from here on wakes.
            self.mapper.arm()?;
            let now = Instant::now();
            let heard = kernel.heard();
            let mut reasons: BTreeMap<(u32, u32), BTreeSet<String>> = BTreeMap::new();
            for uevent in heard.uevents {
                let of = reasons.entry(uevent.device).or_default();
                of.extend(uevent.reason);
            }
            if heard.lost {
                self.sets.values_mut().for_each(|set| _ = set.due.get_or_insert(now + UEVENT));
            }
            let looked = self.look(&mut reasons, now);
            let mut changed = matches!(looked, Ok(true));
            self.complain("look", looked.err());
            if let Some(answers) = asked.as_ref().and_then(|asked| asked.try_recv().ok()) {
                asked = None;
                self.take(answers);
                changed = true;
            }
            if !smart.is_zero() && asked.is_none() && now >= next_smart {
                let (work, mut waker) = (self.work(), kernel.waker()?);
                let (to, from) = channel();
                thread::spawn(move || {
                    // Nobody is left to hear it when the program ends.
                    let _ = to.send(ask(work));
                    let _ = waker.write_all(&[0]);
                });
                (asked, next_smart) = (Some(from), now + smart);
            }
            if changed || now >= next_write {
                self.refresh();
                let written = self.write();
                self.complain("write", written.err());
                next_write = now + interval;
            }
            if !ready {
                // Where nobody waits for it, it goes nowhere.
                let _ = sd_notify::notify(false, &[NotifyState::Ready]);
                ready = true;
            }
            let due = self.sets.values().filter_map(|set| set.due).min();
            let mut until = due.map_or(next_write, |due| due.min(next_write));
            if self.waiting {
                until = until.min(now + AGAIN);
            }
            if !smart.is_zero() && asked.is_none() {
                until = until.min(next_smart);
            }
            kernel.wait(&self.mapper, until)?;
            // A storm of events, of other mapped devices too, is not looked at one by one.
            thread::sleep(GATHER);
        }
        let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
        Ok(Outcome::Well)
    }

    /// Says what could not be done, once as long as it cannot.
    fn complain(&mut self, what: &'static str, failure: Option<Failure>) {
        match failure {
            Some(failure) if self.complaints.get(what) != Some(&failure) => {
                journal(Priority::Error, &failure);
                self.complaints.insert(what, failure);
            }
            Some(_) => {}
            None => _ = self.complaints.remove(what),
        }
    }

    /// Looks which sets there are and what has happened to them, and tells. Whether anything has.
    fn look(
        &mut self,
        reasons: &mut BTreeMap<(u32, u32), BTreeSet<String>>,
        now: Instant,
    ) -> Result<bool, Failure> {
        let all = self.mapper.all()?;
        let mut changed = false;
        self.waiting = false;
        let same = |set: &Watched| {
            let again = all.iter().find(|live| live.name == set.live.name);
            again.is_some_and(|live| {
                live.device == set.live.device && sequence(live) == set.sequence
            })
        };
        let gone: Vec<String> =
            self.sets.iter().filter(|(_, set)| !same(set)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            if let Some(set) = self.sets.remove(&name) {
                self.teller.tell(alert(&set.live, &set.state, events::GONE, events::GONE.name, ""));
                changed = true;
            }
        }
        for live in all {
            let said = reasons.remove(&live.device).unwrap_or_default();
            let Some(set) = self.sets.get_mut(&live.name) else {
                changed |= self.found(live);
                continue;
            };
            if !said.is_empty() {
                set.reasons.extend(said);
                set.due = Some(now);
            } else if live.event != set.live.event {
                let wait = if self.has_uevents { UEVENT } else { Duration::ZERO };
                set.due.get_or_insert(now + wait);
            }
            set.live = live;
            if set.due.is_some_and(|due| due <= now) {
                changed = true;
                happened(&self.mapper, &self.teller, set, now);
            }
        }
        Ok(changed)
    }

    /// Begins to follow a set. Whether it could be asked how it is.
    fn found(&mut self, live: Live) -> bool {
        // One that is not active is being made, or let go.
        let Some(state) = state_of(&self.mapper, &live) else {
            self.waiting = true;
            return false;
        };
        let event = if state.is_healthy() { events::FOUND } else { events::FOUND_UNWELL };
        self.teller.tell(alert(&live, &state, event, event.name, &state.describe(None)));
        let set = Watched {
            state: state.clone(),
            told: state,
            reasons: BTreeSet::new(),
            due: None,
            events: BTreeMap::new(),
            drives: BTreeMap::new(),
            sequence: sequence(&live),
            live,
        };
        self.sets.insert(set.live.name.clone(), set);
        true
    }

    /// Asks all sets how they are, for the counts.
    fn refresh(&mut self) {
        for set in self.sets.values_mut() {
            if let Some(state) = state_of(&self.mapper, &set.live) {
                set.state = state;
            }
        }
    }

    /// The drives under each set.
    fn work(&self) -> Vec<(String, String)> {
        let mut work = Vec::new();
        for (name, set) in &self.sets {
            let status = self.mapper.message(&set.live, "metadata_status").unwrap_or_default();
            let of_set = members(&set.live.line, &status).unwrap_or_default();
            let names: BTreeSet<String> =
                (of_set.iter()).flat_map(|member| drives(Path::new("/"), member.device)).collect();
            work.extend(names.into_iter().map(|drive| (name.clone(), drive)));
        }
        work
    }

    /// Takes in what the drives have said, and tells what has become worse.
    fn take(&mut self, answers: Answers) {
        for (name, drive, answer) in answers {
            let Some(set) = self.sets.get_mut(&name) else { continue };
            let Ok(smart) = answer else { continue };
            let time = recovery_time::Drive::of(Path::new("/"), &drive, smart.recovery).warning();
            let new = metrics::Drive {
                name: drive.clone(),
                pending: smart.pending,
                reallocated: smart.reallocated,
                too_long: time.is_some(),
            };
            let old = set.drives.insert(drive.clone(), new.clone());
            for (event, now, before) in [
                (events::SMART_PENDING, new.pending, old.as_ref().and_then(|old| old.pending)),
                (
                    events::SMART_REALLOCATED,
                    new.reallocated,
                    old.as_ref().and_then(|old| old.reallocated),
                ),
            ] {
                if let (Some(now), Some(before)) = (now, before) {
                    if now > before {
                        let text = format!("{drive} counts {now}, {before} before");
                        *set.events.entry(event.name.into()).or_default() += 1;
                        self.teller.tell(alert(&set.live, &set.state, event, event.name, &text));
                    }
                }
            }
            if let Some(warning) = time.filter(|_| self.warned.insert(drive)) {
                let event = events::RECOVERY_TIME;
                self.teller.tell(alert(&set.live, &set.state, event, event.name, &warning));
            }
        }
    }

    /// Writes the counts.
    fn write(&self) -> Result<(), Failure> {
        let Some(file) = &self.prometheus else { return Ok(()) };
        let sets: Vec<metrics::Set> = (self.sets.iter())
            .map(|(name, set)| metrics::Set {
                name: name.clone(),
                state: set.state.clone(),
                events: set.events.clone(),
                drives: set.drives.values().cloned().collect(),
            })
            .collect();
        write(file, &metrics::text(&sets))
    }
}

/// How a set is, if it is active: one that is suspended, or not resumed yet, has nothing to say that counts. Its folder in sysfs is there
/// just as long.
fn state_of(mapper: &Mapper, live: &Live) -> Option<State> {
    if live.suspended {
        return None;
    }
    let active = || live.sysfs().join("remap").exists();
    let text = active().then(|| mapper.message(live, "metadata_status").ok())??;
    active().then(|| State::parse(&text))
}

/// The number that the kernel gives each disk, and never again.
fn sequence(live: &Live) -> String {
    fs::read_to_string(live.sysfs().join("diskseq")).unwrap_or_default()
}

/// Tells what has happened to a set.
fn happened(mapper: &Mapper, teller: &Teller, set: &mut Watched, now: Instant) {
    let Some(state) = state_of(mapper, &set.live) else {
        set.due = Some(now + AGAIN);
        return;
    };
    set.due = None;
    set.state = state;
    let mut names = std::mem::take(&mut set.reasons);
    if names.is_empty() {
        names.extend(set.state.events_since(&set.told).into_iter().map(str::to_owned));
    }
    let details = set.state.describe(Some(&set.told));
    for name in names {
        let event = events::find(&name);
        teller.tell(alert(&set.live, &set.state, event, &name, &details));
        *set.events.entry(name).or_default() += 1;
    }
    set.told = set.state.clone();
}

fn alert(live: &Live, state: &State, event: Event, name: &str, details: &str) -> Alert {
    let called = state.get("name");
    let set = match called.is_empty() || called == live.name {
        true => live.name.clone(),
        false => format!("{} ({called})", live.name),
    };
    let mut values: Vec<(String, String)> = (state.values())
        .map(|(key, value)| (format!("DMREMAP_{}", key.to_ascii_uppercase()), value.to_owned()))
        .collect();
    // What `name` is to the metadata is the set's name; what the device is called is something else.
    values.push(("DMREMAP_MAPPED_NAME".into(), live.name.clone()));
    values.push(("DMREMAP_NUMBER".into(), format!("{}:{}", live.device.0, live.device.1)));
    Alert {
        event,
        name: name.into(),
        device: live.path().display().to_string(),
        set,
        details: details.into(),
        values,
    }
}

/// Asks the drives, one after the other.
fn ask(work: Vec<(String, String)>) -> Answers {
    let mut known: BTreeMap<String, Result<Smart, String>> = BTreeMap::new();
    let mut answers = Vec::new();
    for (set, drive) in work {
        let answer =
            known.entry(drive.clone()).or_insert_with(|| Smart::of(&format!("/dev/{drive}")));
        answers.push((set, drive, answer.clone()));
    }
    answers
}

/// Puts a text in the place of a file, whole: who reads it sees the old or the new one.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |e: std::io::Error| format!("{}: {e}", file.display());
    let name = file.file_name().ok_or_else(|| format!("{}: is no file", file.display()))?;
    // The collector reads what ends in `.prom`.
    let partial = file.with_file_name(format!(".{}.partial", name.to_string_lossy()));
    fs::write(&partial, text).and_then(|()| fs::rename(&partial, file)).map_err(failed)
}
