// SPDX-License-Identifier: GPL-2.0

//! Whether anything is done without being asked for.

use super::Remap;
use crate::pure::settings;
use kernel::sync::atomic::Relaxed;

impl Remap {
    /// The settings that the way of a bio goes by. Gives whether `maintenance_mode` is another one.
    pub(super) fn note_settings(&self, settings: &settings::Settings) -> bool {
        let auto = settings.get(&settings::AUTO_REMAP) != 0;
        let maintenance = settings.get(&settings::MAINTENANCE_MODE) != 0;
        self.may_remap.store(auto && !maintenance && self.writable, Relaxed);
        self.error_limit.store(settings.get(&settings::ERROR_RATE_LIMIT), Relaxed);
        self.maintenance.xchg(maintenance, Relaxed) != maintenance
    }

    /// Whether nothing at all is to be changed without being asked for: no extent moved, marked or
    /// unmarked, no copy of the metadata written anew but by a commit that has to be, no spare taken
    /// back, nothing scanned. What is in doubt is ended all the same, and a spare that takes no writes is put away.
    pub(super) fn in_maintenance(&self) -> bool {
        self.maintenance.load(Relaxed)
    }

    /// Tells people, and the scan, that `maintenance_mode` has changed.
    pub(super) fn tell_of_maintenance(&self) {
        self.scan_in_maintenance();
        if self.in_maintenance() {
            log_info!("{self}: maintenance_mode: nothing is changed without being asked for");
            self.tell("maintenance");
        } else {
            log_info!("{self}: maintenance_mode is over");
            self.tell("maintenance-over");
        }
    }

    /// Whether blocks are moved without being asked, in a word.
    pub(crate) fn auto_word(&self) -> &'static str {
        if self.in_maintenance() && self.writable {
            "maintenance"
        } else if !self.may_remap.load(Relaxed) {
            "off"
        } else if self.rescues.lock().is_halted(self.error_limit.load(Relaxed)) {
            "halted"
        } else {
            "on"
        }
    }
}
