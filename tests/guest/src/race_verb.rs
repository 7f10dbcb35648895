//! `guest race`: one of several who get in each other's way on purpose. Each does at random, until its time is over, what one kind of program does
//! with the module; most of it fails, as somebody else was faster. What may not happen is for the kernel to say, and for whoever checks the data.
//!
//! Set `r` is on `/dev/vda` with a spare `/dev/vdb`, which `/dev/vdc` may join or replace; set `s`, which comes and goes, is on `/dev/vdd` and
//! `/dev/vde`, and is called `t` as well.

use crate::io_verb;
use crate::mapper::Mapper;
use crate::rng::Rng;
use rustix::system::{delete_module, finit_module};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const SET: &str = "r";
/// All that set `r` may be made of, at one time or another.
const LINES: [&str; 4] = [
    "/dev/vda /dev/vdb",
    "/dev/vda /dev/vdc",
    "/dev/vda /dev/vdb 2 spare /dev/vdc",
    "/dev/vda /dev/vdc 2 spare /dev/vdb",
];
const COMING: [&str; 2] = ["s", "t"];
const COMING_LINE: &str = "/dev/vdd /dev/vde";
/// What set `s` holds in its first sectors, however often it comes.
const COMING_DATA: (&str, &str) = ("256", "coming");
/// How long set `r` may be without a table.
const BACK: Duration = Duration::from_secs(120);

/// Who does something with the module.
struct Racer {
    mapper: Mapper,
    rng: Rng,
    main: u64,
    coming: u64,
}

/// Does what the role does, until the time is over, and prints how often it could and how often it tried. Who has come to nothing by then goes on, for
/// `longest` seconds at most.
pub fn run(role: &str, args: &[&str]) -> io::Result<()> {
    let setting = |key: &str, default: u64| {
        let value = args.iter().find_map(|arg| arg.strip_prefix(key)?.strip_prefix('='));
        value.map_or(Ok(default), |text| {
            text.parse().map_err(|_| io::Error::other(format!("{key}={text}: not a number")))
        })
    };
    let act = match role {
        "tables" => Racer::tables,
        "devices" => Racer::devices,
        "messages" => Racer::messages,
        "members" => Racer::members,
        "files" => Racer::files,
        "control" => Racer::control,
        "stats" => Racer::stats,
        "looks" => Racer::looks,
        "module" => Racer::module,
        _ => return Err(io::Error::other(format!("{role}: no such role"))),
    };
    let sectors = |device: &str| -> io::Result<u64> {
        let size = fs::read_to_string(format!("/sys/block/{device}/size"))?;
        size.trim().parse().map_err(|_| io::Error::other(format!("{device} has no size")))
    };
    let mut racer = Racer {
        mapper: Mapper::open()?,
        rng: Rng(setting("seed", 1)?),
        main: sectors("vda")?,
        coming: sectors("vdd")?,
    };
    let (begin, seconds) = (Instant::now(), setting("seconds", 10)?);
    let (end, longest) = (Duration::from_secs(seconds), setting("longest", seconds)?);
    let (mut done, mut tried) = (0, 0);
    while begin.elapsed() < end || done == 0 && begin.elapsed() < Duration::from_secs(longest) {
        tried += 1;
        match act(&mut racer) {
            Ok(()) => done += 1,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
            Err(_) => {}
        }
    }
    if role == "devices" {
        // Whoever unloads the module and has not come to it yet waits for that.
        COMING.iter().for_each(|name| drop(racer.mapper.remove(name)));
    }
    println!("{role} {done}/{tried}");
    Ok(())
}

/// What ends the race: data that is wrong, a device that does not come back.
fn fatal(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Racer {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.below(of.len() as u64) as usize]
    }

    fn pause(&mut self) {
        thread::sleep(Duration::from_micros(self.rng.below(5000)));
    }

    /// Another table, or the same once more; suspended and resumed, in all ways there are.
    fn tables(&mut self) -> io::Result<()> {
        let way = self.rng.below(6);
        let result = match way {
            0 => self.mapper.reload(SET),
            1 | 2 => {
                let suspended = self.mapper.suspend(SET, way == 1);
                self.pause();
                // Whoever suspends resumes, or I/O waits for ever.
                self.mapper.resume(SET).and(suspended)
            }
            3 => {
                let line = self.one(&LINES);
                let loaded = self.mapper.load(SET, self.main, line);
                self.pause();
                self.mapper.clear(SET).and(loaded)
            }
            4 => self
                .mapper
                .table(SET)
                .and_then(|(sectors, line)| self.mapper.load(SET, sectors, &line))
                .and_then(|()| self.mapper.resume(SET)),
            _ => self.mapper.load(SET, self.main, "/dev/vda /dev/vdb 1 unheard_of"),
        };
        self.bring_back()?;
        // While it is suspended nobody else comes to much.
        thread::sleep(Duration::from_millis(self.rng.below(400)));
        result
    }

    /// A table that was loaded before the members changed cannot be put to use, and leaves the device with none, or suspended.
    fn bring_back(&mut self) -> io::Result<()> {
        let end = Instant::now() + BACK;
        let mut why = Vec::new();
        while self.mapper.table(SET).is_err() || self.mapper.is_suspended(SET)? {
            why.clear();
            for line in LINES {
                let loaded = self.mapper.load(SET, self.main, line);
                why.extend(loaded.and_then(|()| self.mapper.resume(SET)).err());
            }
            if Instant::now() > end {
                return Err(fatal(format!("{SET} does not come back: {why:?}")));
            }
        }
        Ok(())
    }

    /// A set that comes and goes, under two names.
    fn devices(&mut self) -> io::Result<()> {
        let name = self.one(&COMING);
        match self.rng.below(5) {
            0 | 1 => self.mapper.create(name, self.coming, COMING_LINE),
            2 => self.mapper.remove(name),
            3 => self.mapper.reload(name),
            _ => {
                let (path, (count, data)) = (format!("/dev/mapper/{name}"), COMING_DATA);
                match io_verb::run(&["check", &path, "0", count, data]) {
                    Err(error) if error.to_string().contains(" holds ") => {
                        Err(fatal(format!("{path}: {error}")))
                    }
                    result => result.map(drop),
                }
            }
        }
    }

    fn messages(&mut self) -> io::Result<()> {
        let at = self.rng.below(self.main / 8) * 8;
        let len = 8 * (1 + self.rng.below(40));
        let message = match self.rng.below(24) {
            0..=5 => format!("remap {at} {len}"),
            6..=9 => format!("unremap {at} {}", len * 16),
            10 => "save".into(),
            11 => "restore".into(),
            12 => format!("check {}", self.one(&["basic", "integrity", "complete", "forensic"])),
            13 => format!("scan {}", self.one(&["start", "pause", "stop"])),
            14 => format!("verify {at}"),
            15 => format!("table {at}"),
            16 => "sync".into(),
            17 => "repair".into(),
            18 => self.one(&["stop", "clear", "undo"]).into(),
            19 => format!("set spare_policy {}", self.one(&["fill", "round_robin", "most_free"])),
            20 => format!("set alert_threshold {}", 50 + self.rng.below(50)),
            21 => format!("name n{at}"),
            22 => self.one(&["get", "help", "ping", "metadata_status"]).into(),
            _ => self.one(&["remap 1 x", "unheard of", "set nothing 1", "migrate"]).into(),
        };
        self.mapper.message(SET, &message).map(drop)
    }

    /// Spares join, leave and follow each other.
    fn members(&mut self) -> io::Result<()> {
        let spare = self.one(&["/dev/vdb", "/dev/vdc"]);
        let what = self.one(&["spare add", "spare remove", "migrate"]);
        let result = self.mapper.message(SET, &format!("{what} {spare}")).map(drop);
        thread::sleep(Duration::from_millis(self.rng.below(200)));
        result
    }

    /// Reads all files of a device, and writes some. One is kept open, whatever becomes of its device meanwhile.
    fn files(&mut self) -> io::Result<()> {
        let name = self.one(&[SET, COMING[0], COMING[1]]);
        let dir = format!("/sys/block/dm-{}/remap", self.mapper.minor(name)?);
        let mut kept = File::open(format!("{dir}/persist"));
        read_all(Path::new(&dir))?;
        let value = 50 + self.rng.below(50);
        let written = fs::write(format!("{dir}/alert_threshold"), value.to_string());
        self.pause();
        let mut text = String::new();
        if let Ok(kept) = &mut kept {
            // Not there any more, as often as not.
            let _ = kept.read_to_string(&mut text);
        }
        written
    }

    fn control(&mut self) -> io::Result<()> {
        let dir = Path::new("/sys/kernel/debug/dm-remap");
        match self.rng.below(4) {
            0 => fs::write(dir.join("metadata_control"), self.one(&["save", "restore"])),
            1 => fs::read_to_string(dir.join("metadata_status")).map(drop),
            _ => read_all(dir),
        }
    }

    /// dmstats: the device is suspended from within, without the target being told.
    fn stats(&mut self) -> io::Result<()> {
        let id = self.mapper.message(SET, "@stats_create - /16")?;
        let id = id.trim();
        self.pause();
        self.mapper.message(SET, &format!("@stats_print {id}"))?;
        self.mapper.message(SET, &format!("@stats_delete {id}")).map(drop)
    }

    fn looks(&mut self) -> io::Result<()> {
        let name = self.one(&[SET, SET, COMING[0], COMING[1]]);
        match self.rng.below(3) {
            0 => self.mapper.status(name).map(drop),
            1 => self.mapper.table(name).map(drop),
            _ => self.mapper.message(name, "metadata_status").map(drop),
        }
    }

    fn module(&mut self) -> io::Result<()> {
        self.pause();
        // O_NONBLOCK: no waiting for who uses it.
        let removed = delete_module(c"dm_remap", 0o4000);
        self.pause();
        let file = File::open("/dm-remap.ko")?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(removed?),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads every file below a folder, which may go meanwhile.
fn read_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        // Not there any more, as often as not.
        let _ = match entry.file_type() {
            Ok(kind) if kind.is_dir() => read_all(&entry.path()),
            _ => fs::read(entry.path()).map(drop),
        };
    }
    Ok(())
}
