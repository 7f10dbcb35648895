// SPDX-License-Identifier: GPL-2.0

//! What the wrappers rely on in the kernel, tried there: a suite of KUnit's, which runs when the module is loaded into a kernel that has
//! KUnit built in. No other build of the module has it.

#[kernel::macros::kunit_tests(dm_remap)]
mod tests {
    use super::super::{
        bits::Bits,
        in_flight::{InFlight, Landed},
        published::{Published, Reading},
        slots::Slots,
    };
    use core::sync::atomic::{AtomicU32, Ordering};
    use kernel::{
        prelude::*,
        sync::{Arc, ArcBorrow},
    };

    /// How often it has been told that all is back.
    struct Told(AtomicU32);

    impl Landed for Told {
        fn landed(this: ArcBorrow<'_, Self>) {
            this.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn bits_are_added_and_replaced() -> Result {
        let bits = KBox::init(Bits::<2>::none(), GFP_KERNEL)?;
        assert!(!bits.has(0) && !bits.has(127));
        bits.add(&[1 << 3, 1 << 63]);
        bits.add(&[1 << 4]);
        assert!(bits.has(3) && bits.has(4) && bits.has(127) && !bits.has(5));
        assert_eq!(bits.from(3), 3);
        // Of as many as there are.
        assert!(bits.has(128 + 3));
        bits.become_those(&[1 << 5, 0]);
        assert_eq!((bits.word(0), bits.word(1)), (1 << 5, 0));
        Ok(())
    }

    #[test]
    fn who_waits_is_told_when_all_of_before_are_back() -> Result {
        let count = KBox::pin_init(InFlight::new(), GFP_KERNEL)?;
        let told = Arc::new(Told(AtomicU32::new(0)), GFP_KERNEL)?;
        let times = || told.0.load(Ordering::Relaxed);
        let (one, two) = (count.enter(), count.enter());
        count.call(told.clone())?;
        count.leave(two);
        assert_eq!(times(), 0);
        count.leave(one);
        count.barrier();
        assert_eq!(times(), 1);
        count.call(told.clone())?;
        count.barrier();
        assert_eq!(times(), 2);
        Ok(())
    }

    #[test]
    fn what_was_published_stays_while_it_is_read() -> Result {
        let published = Published::new(KBox::new(1u32, GFP_KERNEL)?);
        let next = KBox::new(2u32, GFP_KERNEL)?;
        let reading = Reading::begin();
        let before = published.read(&reading);
        let retired = published.replace(next);
        assert_eq!((*before, *published.read(&reading)), (1, 2));
        assert!(!retired.is_over());
        drop(reading);
        assert_eq!(retired.into_value().map(|value| *value), Some(1));
        Ok(())
    }

    #[test]
    fn a_value_that_is_replaced_stays_where_it_is_shown() -> Result {
        let slots = KBox::init(Slots::<u32, 2>::none(), GFP_KERNEL)?;
        assert_eq!((slots.get(0), slots.shown(7)), (None, None));
        slots.put(0, 1)?;
        slots.show(7, Some(0));
        let first = slots.get(0);
        slots.put(0, 2)?;
        assert_eq!((first, slots.get(0), slots.shown(7)), (Some(&1), Some(&2), Some(&1)));
        slots.show(7, None);
        assert_eq!(slots.shown(7), None);
        assert!(slots.put(2, 3).is_err());
        Ok(())
    }
}
