//! What `/etc/dmremap.conf` says to the monitor. Lines of a keyword and words; `#` begins a comment. Other keywords are for others.

use crate::configuration::{lines, words, Mistake};
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
    /// What a configuration says, and what of it says nothing: one who is named wrong keeps nobody else from being told.
    pub fn parse(text: &[u8]) -> (Self, Vec<Mistake>) {
        let (mut settings, mut mistakes) = (Self::default(), Vec::new());
        for (line, _, said) in lines(text) {
            let taken = words(&said).and_then(|words| settings.take(&words));
            mistakes.extend(taken.err().map(|what| Mistake { line, what }));
        }
        (settings, mistakes)
    }

    fn take(&mut self, words: &[&str]) -> Result<(), String> {
        let [keyword, words @ ..] = words else { return Ok(()) };
        let keyword = keyword.to_ascii_uppercase();
        let path = || match words {
            [path] if path.starts_with('/') => Ok(Some(PathBuf::from(path))),
            [path, _, ..] if path.starts_with('/') => {
                Err(format!("{keyword} takes one path, and nothing behind it"))
            }
            _ => Err(format!("{keyword} needs a path that begins with '/'")),
        };
        match &*keyword {
            "PROGRAM" => self.program = path()?,
            "PROMETHEUS" => self.prometheus = path()?,
            "MAILADDR" if words.is_empty() => return Err("MAILADDR needs an address".into()),
            "MAILADDR" => {
                let (good, bad): (Vec<_>, Vec<_>) =
                    words.iter().map(|word| address(word)).partition(Result::is_ok);
                self.mail.extend(good.into_iter().flatten().map(str::to_owned));
                let bad: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
                if !bad.is_empty() {
                    return Err(format!("MAILADDR {}", bad.join(", ")));
                }
            }
            _ => {}
        }
        Ok(())
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
