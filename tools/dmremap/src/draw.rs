//! What is drawn in text: how many columns there are, which characters can be used, bars.

use std::env;

/// Whether the locale's characters are those of Unicode, as the C library decides it.
pub fn has_unicode() -> bool {
    let set = |name: &&str| env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set);
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// A bar of `width` characters, of which as many are full as `part` of `whole` is. Something is never nothing, and not all is
/// never all.
pub fn bar(part: u64, whole: u64, width: usize, unicode: bool) -> String {
    let (full, empty) = if unicode { ("█", "░") } else { ("#", "-") };
    let share = |n: u64| (u128::from(n) * width as u128 / u128::from(whole.max(1))) as usize;
    let filled = match part {
        0 => 0,
        n if n >= whole => width,
        n => share(n).clamp(1.min(width), width.saturating_sub(1).max(1)),
    };
    full.repeat(filled) + &empty.repeat(width - filled)
}

/// How much `part` of `whole` is in percent: less than a hundredth is `<1`.
pub fn percent(part: u64, whole: u64) -> String {
    match u128::from(part) * 100 / u128::from(whole.max(1)) {
        0 if part > 0 => "<1%".into(),
        percent => format!("{percent}%"),
    }
}
