//! Room that runs out.

use remap_pure::shortage::Shortage;

#[test]
fn a_shortage_is_new_once_until_there_was_more() {
    let mut room = Shortage::default();
    room.see(0);
    assert!(!room.lasts());
    assert!(room.begins(3) && room.lasts());
    // A wish that was too large, and then a smaller one.
    assert!(!room.begins(3) && !room.begins(1));
    room.see(1);
    assert!(room.lasts() && !room.begins(1));
    room.see(2);
    assert!(!room.lasts() && room.begins(2));
}
