//! Why a set's metadata is refused, with cures that this program has: the kernel's speak of the table line.

use remap_pure::recovery::Refusal;

/// What to say of it.
pub fn told(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Missing(spare, uuid) => format!(
            "spare {spare} of the set ({uuid}) is missing, and may have what nobody else knows of; name its device too, or have the set go on without it: dmremap assemble --absent {uuid}"
        ),
        Refusal::Older { spare, uuid, found, durable, away } => {
            let without = match away {
                true => "--degraded".to_owned(),
                false => format!("--absent {uuid}"),
            };
            format!(
                "spare {spare} of the set ({uuid}) is an older image of itself, a clone or a snapshot perhaps: it has version {found} of the metadata and had version {durable}, so its data is old too; name the device that was in use, or have the set go on without it: dmremap assemble {without}. Wiped ('dmremap wipe'), it may become a new spare"
            )
        }
        Refusal::CreationCutShort(spare, set) => format!(
            "the creation of set {set} on spare {spare} was cut short; 'dmremap create' with the same devices goes on with it, 'dmremap wipe' gives it up"
        ),
        Refusal::Empty(spare) => format!(
            "spare {spare} is not a spare of a set: it holds no metadata; check the device's name"
        ),
        Refusal::Foreign(spare) => format!(
            "spare {spare} holds something that is not ours; check the device's name"
        ),
        _ => refusal.to_string(),
    }
}
