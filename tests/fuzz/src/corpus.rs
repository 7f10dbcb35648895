//! Turns a file of the kept corpus into a folder, as the fuzzer wants it, and back: `corpus unpack FILE FOLDER`, `corpus pack FOLDER FILE`.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", file, folder] => {
            // There is none yet for a new target.
            let text = fs::read_to_string(file).unwrap_or_default();
            for (i, data) in remap_fuzz::kept(&text).enumerate() {
                fs::write(Path::new(folder).join(format!("kept-{i}")), data)?;
            }
        }
        ["pack", folder, file] => {
            let mut lines = Vec::new();
            for entry in fs::read_dir(folder)? {
                let data = fs::read(entry?.path())?;
                let digit = |four: u8| char::from_digit(four.into(), 16);
                let digits = data.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit);
                lines.push(digits.collect::<String>());
            }
            lines.retain(|line| !line.is_empty());
            lines.sort_by_key(|line| (line.len(), line.clone()));
            lines.iter_mut().for_each(|line| line.push('\n'));
            fs::write(file, lines.concat())?;
        }
        _ => panic!("corpus unpack FILE FOLDER, or corpus pack FOLDER FILE"),
    }
    Ok(())
}
