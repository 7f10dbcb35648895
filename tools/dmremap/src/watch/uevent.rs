//! What the kernel says to user space of devices (lib/kobject_uevent.c): `action@path`, then `KEY=value`, each with a zero behind it.

/// A uevent of a mapped device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uevent {
    /// Major and minor number.
    pub device: (u32, u32),
    /// What has happened to a set, if it is about that.
    pub reason: Option<String>,
}

impl Uevent {
    /// Takes one apart; `None` if it is of something else.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut words = message.split(|&byte| byte == 0).map(|word| std::str::from_utf8(word).ok());
        if !words.next()??.contains("@/") {
            return None;
        }
        let (mut major, mut minor, mut reason, mut is_mapped) = (None, None, None, false);
        for (key, value) in words.flatten().filter_map(|word| word.split_once('=')) {
            match key {
                "MAJOR" => major = value.parse().ok(),
                "MINOR" => minor = value.parse().ok(),
                "DEVNAME" => is_mapped = value.starts_with("dm-"),
                "DM_REMAP_EVENT" => reason = Some(value.to_owned()),
                _ => {}
            }
        }
        is_mapped.then_some(Self { device: (major?, minor?), reason })
    }
}
