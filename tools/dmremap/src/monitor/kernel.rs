//! What the kernel says by itself: that something has happened to a mapped device, and, in a uevent, what.

use crate::live::Mapper;
use crate::Failure;
use dmremap::watch::uevent::Uevent;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{SocketAddrNetlink, KOBJECT_UEVENT};
use rustix::net::{bind, recvfrom, socket_with, AddressFamily, RecvFlags, SocketFlags, SocketType};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The group to which the kernel sends; udev has another one.
const FROM_KERNEL: u32 = 1;

/// All that the monitor waits for.
pub struct Kernel {
    /// `None` where uevents are not to be had, as in a container.
    uevents: Option<OwnedFd>,
    woken: UnixStream,
    /// Wakes the monitor when something is written to it.
    waker: UnixStream,
    over: Arc<AtomicBool>,
}

/// What uevents have said.
#[derive(Default)]
pub struct Heard {
    /// Those of mapped devices.
    pub uevents: Vec<Uevent>,
    /// Whether some were lost, because there were too many.
    pub lost: bool,
}

impl Kernel {
    /// Listens from now on, to signals that end the program too.
    ///
    /// # Errors
    ///
    /// That signals cannot be listened to.
    pub fn listen() -> Result<Self, Failure> {
        let failed = |e: std::io::Error| format!("cannot wait for signals: {e}");
        let (woken, waker) = UnixStream::pair().map_err(failed)?;
        woken.set_nonblocking(true).map_err(failed)?;
        let over = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // The flag first: who is woken looks at it.
            signal_hook::flag::register(signal, over.clone()).map_err(failed)?;
            let waker = waker.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, waker).map_err(failed)?;
        }
        Ok(Self { uevents: uevents().ok(), woken, waker, over })
    }

    /// Whether uevents say what has happened.
    pub fn has_uevents(&self) -> bool {
        self.uevents.is_some()
    }

    /// Whether the program is to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Something that wakes the monitor when it is written to.
    ///
    /// # Errors
    ///
    /// No more files can be opened.
    pub fn waker(&self) -> Result<UnixStream, Failure> {
        self.waker.try_clone().map_err(|e| format!("cannot wake the monitor: {e}"))
    }

    /// Waits until something has happened, or it is time. `mapper` was armed before the sets were last looked at.
    ///
    /// # Errors
    ///
    /// Waiting is not possible.
    pub fn wait(&mut self, mapper: &Mapper, until: Instant) -> Result<(), Failure> {
        let left = until.saturating_duration_since(Instant::now()).min(Duration::from_secs(3600));
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = vec![
            PollFd::from_borrowed_fd(mapper.events(), PollFlags::IN),
            PollFd::new(&self.woken, PollFlags::IN),
        ];
        fds.extend(self.uevents.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(format!("cannot wait for events: {e}")),
        }
        // What woke it is said elsewhere.
        while matches!(self.woken.read(&mut [0; 64]), Ok(1..)) {}
        Ok(())
    }

    /// What was said since the last time.
    pub fn heard(&self) -> Heard {
        let mut heard = Heard::default();
        let Some(fd) = &self.uevents else { return heard };
        let mut message = vec![0; 16384];
        loop {
            match recvfrom(fd, &mut message[..], RecvFlags::DONTWAIT) {
                Ok((len, _, from)) => {
                    let kernel = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    // Others may send here too; the kernel is 0.
                    if kernel.is_some_and(|from| from.pid() == 0) {
                        heard.uevents.extend(Uevent::parse(message.get(..len).unwrap_or(&[])));
                    }
                }
                Err(Errno::NOBUFS) => heard.lost = true,
                Err(Errno::INTR) => {}
                Err(_) => return heard,
            }
        }
    }
}

fn uevents() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    bind(&fd, &SocketAddrNetlink::new(0, FROM_KERNEL))?;
    Ok(fd)
}
