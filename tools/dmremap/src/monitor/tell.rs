//! Who is told: the journal at once, a program for each event, a mailbox for each burst.
//!
//! Program and mail run on a thread of their own: they may hang, and what happens to the sets is followed all the same.

use dmremap::child;
use dmremap::watch::burst::Burst;
use dmremap::watch::events::{Event, Priority};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a program or the mail may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many alerts wait for a program that is slow, before some are not given to it.
const WAITING: usize = 256;

/// Where sendmail(8) is, on one system or another; a service's search path may lack it.
const SENDMAIL: [&str; 3] = ["/usr/sbin/sendmail", "/usr/lib/sendmail", "/usr/bin/sendmail"];

/// What somebody is told.
#[derive(Clone, Debug)]
pub struct Alert {
    /// What kind of thing has happened.
    pub event: Event,
    /// Its name, which is another one than the kind's for an event that is not known.
    pub name: String,
    /// The mapped device, by its path; empty for what is about no set.
    pub device: String,
    /// What the set is called for people.
    pub set: String,
    /// What there is to say.
    pub details: String,
    /// What else is known, as variables of the environment: name and value.
    pub values: Vec<(String, String)>,
}

impl Alert {
    /// On one line.
    pub fn line(&self) -> String {
        let Self { event, set, name, details, .. } = self;
        let mut line = format!("{set}: {}", event.means);
        if event.name != name {
            line = format!("{line} ({name})");
        }
        match details.is_empty() {
            true => line,
            false => format!("{line}: {details}"),
        }
    }
}

/// Writes a line for the journal, with its priority where the journal is listening (sd-daemon(3)).
pub fn journal(priority: Priority, line: &str) {
    let line = line.replace('\n', "; ");
    match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => eprintln!("<{}>{line}", priority as u8),
        None => eprintln!("dmremap: {line}"),
    }
}

/// Whom to tell besides the journal.
#[derive(Clone, Debug)]
pub struct Whom {
    /// Addresses.
    pub mail: Vec<String>,
    /// For how long a mail waits for more.
    pub delay: Duration,
    /// A program.
    pub program: Option<PathBuf>,
}

impl Whom {
    /// Runs the program for one alert.
    ///
    /// # Errors
    ///
    /// It could not be run, or failed.
    pub fn run_program(&self, program: &Path, alert: &Alert) -> Result<(), String> {
        let mut command = Command::new(program);
        command.args([&alert.name, &alert.device, &alert.details]);
        command.env("DMREMAP_EVENT", &alert.name).env("DMREMAP_DEVICE", &alert.device);
        command.env("DMREMAP_DETAILS", &alert.details).env("DMREMAP_MEANS", alert.event.means);
        command.env("DMREMAP_PRIORITY", (alert.event.priority as u8).to_string());
        command.envs(alert.values.iter().map(|(key, value)| (key, value)));
        child::run(&mut command, &[], PATIENCE)?
            .success()
            .map_err(|e| format!("{}: {e}", program.display()))
    }

    /// Mails some alerts.
    ///
    /// # Errors
    ///
    /// There is no mail program, or it failed.
    pub fn send_mail(&self, alerts: &[Alert]) -> Result<(), String> {
        let Some(first) = alerts.iter().min_by_key(|alert| alert.event.priority) else {
            return Ok(());
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let more = match alerts.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let subject = format!("dm-remap on {host}: {}: {}{more}", first.set, first.event.means);
        let subject: String = subject
            .chars()
            .map(|c| if c.is_ascii() && !c.is_control() { c } else { '?' })
            .collect();
        let mut body = String::new();
        for alert in alerts {
            body += &format!("{}\n", alert.line().replace('\n', "\n    "));
        }
        body += &format!(
            "\nThis was found by `dmremap monitor` on {host}. The kernel's log names devices and sectors; `dmsetup message DEVICE 0 metadata_status` \
             and `dmremap status` show how the sets are now.\n"
        );
        let sendmail = SENDMAIL.iter().find(|path| Path::new(path).exists());
        let ended = match sendmail {
            Some(sendmail) => {
                let head = format!(
                    "To: {}\nSubject: {subject}\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\n\
                     Content-Type: text/plain; charset=utf-8\n\n",
                    self.mail.join(", ")
                );
                let mut command = Command::new(sendmail);
                command.arg("-i").args(&self.mail);
                child::run(&mut command, format!("{head}{body}").as_bytes(), PATIENCE)
            }
            None => {
                let mut command = Command::new("mail");
                command.args(["-s", &subject]).args(&self.mail);
                child::run(&mut command, body.as_bytes(), PATIENCE)
            }
        };
        ended
            .and_then(|ended| ended.success())
            .map_err(|e| format!("mail to {} could not be sent: {e}", self.mail.join(", ")))
    }
}

/// Tells others on a thread of its own.
pub struct Teller {
    to: SyncSender<Alert>,
    thread: JoinHandle<()>,
}

impl Teller {
    /// Begins.
    pub fn start(whom: Whom) -> Self {
        let (to, from) = sync_channel(WAITING);
        Self { to, thread: thread::spawn(move || serve(&whom, &from)) }
    }

    /// Tells of something: the journal at once, others soon.
    pub fn tell(&self, alert: Alert) {
        journal(alert.event.priority, &alert.line());
        if self.to.try_send(alert).is_err() {
            journal(Priority::Error, "program and mail do not keep up; they are not told of this");
        }
    }

    /// Tells what is left, and ends.
    pub fn finish(self) {
        drop(self.to);
        // It ends by itself; one that has panicked has said so.
        let _ = self.thread.join();
    }
}

fn serve(whom: &Whom, from: &Receiver<Alert>) {
    let mut mail = Burst::new(whom.delay);
    loop {
        let now = Instant::now();
        let wait = mail.due().map_or(Duration::from_secs(3600), |due| due - now.min(due));
        let over = match from.recv_timeout(wait) {
            Ok(alert) => {
                if let Some(program) = &whom.program {
                    if let Err(e) = whom.run_program(program, &alert) {
                        journal(Priority::Error, &e);
                    }
                }
                if alert.event.mail && !whom.mail.is_empty() {
                    mail.add(alert, Instant::now());
                }
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        let now = Instant::now();
        let due = if over { mail.take_all(now) } else { mail.take(now) };
        if let Err(e) = whom.send_mail(&due) {
            journal(Priority::Error, &e);
            mail.give_back(due, now);
        }
        if over {
            return;
        }
    }
}
