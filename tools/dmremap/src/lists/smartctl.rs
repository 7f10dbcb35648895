//! What smartctl(8) prints of the drive's own logs: the first bad block of each self-test that failed, reads that failed for good (`UNC`),
//! and the list of pending defects. As text, or as JSON (`--json`).

use super::{shown, Found, Length, Place, Unit};
use serde_json::Value;

/// Whether a line is one that only smartctl prints.
pub fn is_title(line: &str) -> bool {
    line.starts_with("Num  Test")
        || line.contains("LBA_of_first_error")
        || line.starts_with("SMART Self-test log")
}

/// What it says.
///
/// # Errors
///
/// It is not of smartctl.
pub fn read(text: &str, block: Option<u64>) -> Result<Found, String> {
    let mut found = Found::default();
    let (mut blocks, said) = match text.trim_start().starts_with('{') {
        true => json(text, &mut found)?,
        false => plain(text, &mut found)?,
    };
    blocks.sort_unstable();
    blocks.dedup();
    for lba in blocks {
        let place = |start, unit| Place { device: None, start, unit, length: Length::Point };
        match block.or(said) {
            None => found.places.push(place(lba, Unit::LogicalBlocks)),
            Some(block) => match lba.checked_mul(block) {
                Some(start) => found.places.push(place(start, Unit::Bytes)),
                None => found.skip(format!("block {lba} is beyond the end of any drive")),
            },
        }
    }
    found.notes.push(
        "a self-test names the first bad block alone, and ends there; a scan finds the others"
            .into(),
    );
    Ok(found)
}

/// The blocks that are named, and how many bytes one has.
fn json(text: &str, found: &mut Found) -> Result<(Vec<u64>, Option<u64>), String> {
    let all: Value = serde_json::from_str(text).map_err(|e| format!("is no whole JSON: {e}"))?;
    if !all["smartctl"].is_object() {
        return Err("is JSON, and not of smartctl".into());
    }
    found.serial = all["serial_number"].as_str().map(str::to_owned);
    let mut blocks = Vec::new();
    let mut rows = |table: &Value, failed: &dyn Fn(&Value) -> bool, key: &str| {
        for row in table.as_array().into_iter().flatten().filter(|row| failed(row)) {
            blocks.extend(row[key].as_u64());
        }
    };
    let failed = |row: &Value| row["status"]["passed"] != true;
    for log in ["standard", "extended"] {
        rows(&all["ata_smart_self_test_log"][log]["table"], &failed, "lba");
    }
    rows(&all["ata_pending_defects_log"]["table"], &|_| true, "lba");
    rows(&all["nvme_self_test_log"]["table"], &|_| true, "lba");
    for log in 0..20 {
        blocks.extend(all[format!("scsi_self_test_{log}")]["lba_first_failure"]["value"].as_u64());
    }
    Ok((blocks, all["logical_block_size"].as_u64().filter(|size| (512..=65536).contains(size))))
}

fn plain(text: &str, found: &mut Found) -> Result<(Vec<u64>, Option<u64>), String> {
    let (mut blocks, mut said, mut ours) = (Vec::new(), None, text.starts_with("smartctl "));
    let mut pending = false;
    for line in text.lines() {
        ours |= is_title(line.trim());
        let value = |key: &str| line.strip_prefix(key).map(str::trim);
        if let Some(serial) = value("Serial Number:").or_else(|| value("Serial number:")) {
            found.serial = Some(serial.into());
        }
        let size = value("Sector Size:").or_else(|| value("Sector Sizes:"));
        if let Some(size) = size.or_else(|| value("Logical block size:")) {
            let bytes = size.split_whitespace().next().and_then(|word| word.parse().ok());
            said = bytes.filter(|size| (512..=65536).contains(size)).or(said);
        }
        // Index, block, and the hours when it was found.
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Pending", "Defects", "log", ..] => pending = true,
            [] => pending = false,
            [index, lba, _] if pending => {
                if let (Ok(_), Ok(lba)) = (index.parse::<u64>(), lba.parse()) {
                    blocks.push(lba);
                }
            }
            _ => {}
        }
        if line.trim_start().starts_with('#') {
            // ATA has the block last, SCSI in front of its sense codes.
            let row = line.split_once('[').map_or(line, |(row, _)| row);
            let last = row.split_whitespace().last().unwrap_or("-");
            let failed = line.to_ascii_lowercase().contains("fail");
            match last.parse() {
                Ok(lba) if failed => blocks.push(lba),
                Err(_) if failed && last != "-" => {
                    found.skip(format!("'{}' has no number of a block", shown(line.trim())));
                }
                _ => {}
            }
        } else if let Some((_, rest)) =
            line.split_once("Error: UNC").or_else(|| line.split_once("Error: IDNF, UNC"))
        {
            // "at LBA = 0x0000abcd = 43981"
            let lba = rest.rsplit_once("= ").and_then(|(_, n)| n.trim().parse::<u64>().ok());
            blocks.extend(lba);
        }
    }
    match ours {
        true => Ok((blocks, said)),
        false => Err("has no list of self-tests, as `smartctl -x` prints it".into()),
    }
}
