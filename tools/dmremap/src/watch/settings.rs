//! What `/etc/dmremap.conf` says to the monitor. Lines of a keyword and words; `#` begins a comment. Other keywords are for others.

use std::path::PathBuf;

/// Whom to tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// `MAILADDR ADDRESS...`
    pub mail: Vec<String>,
    /// `PROGRAM PATH`
    pub program: Option<PathBuf>,
    /// `PROMETHEUS PATH`
    pub prometheus: Option<PathBuf>,
}

impl Settings {
    /// What a configuration says.
    ///
    /// # Errors
    ///
    /// Which line is wrong, and how.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            let failed = |why: &str| format!("line {}: {keyword} {why}", i + 1);
            let mut path = || {
                let path = words.next().map(PathBuf::from).filter(|path| path.is_absolute());
                let path = path.ok_or_else(|| failed("needs a path that begins with '/'"))?;
                match words.next() {
                    None => Ok(Some(path)),
                    Some(_) => Err(failed("takes one path, and nothing behind it")),
                }
            };
            match &*keyword {
                "PROGRAM" => settings.program = path()?,
                "PROMETHEUS" => settings.prometheus = path()?,
                "MAILADDR" => {
                    let before = settings.mail.len();
                    for word in words {
                        settings.mail.push(address(word).map_err(|e| failed(&e))?.into());
                    }
                    if settings.mail.len() == before {
                        return Err(failed("needs an address"));
                    }
                }
                _ => {}
            }
        }
        Ok(settings)
    }
}

/// An address that a mail program takes for nothing else.
///
/// # Errors
///
/// What is wrong with it.
pub fn address(word: &str) -> Result<&str, String> {
    let fits = |c: char| !c.is_whitespace() && !c.is_control() && !",;\"'|<>`".contains(c);
    match !word.is_empty() && !word.starts_with('-') && word.chars().all(fits) {
        true => Ok(word),
        false => Err(format!("'{}' is no address of a mailbox", word.escape_debug())),
    }
}
