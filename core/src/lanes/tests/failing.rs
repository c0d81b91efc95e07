//! Bots whose last call failed: what they may hold, have under way and ask for.

use super::*;

#[test]
fn bots_whose_last_call_failed_share_a_part_and_hold_nothing_that_waits() {
    let mut lanes = Lanes::new(Limits { failing_total: 2, ..LIMITS });
    offer_each(&mut lanes, 1, 10..12);
    offer_each(&mut lanes, 2, 20..22);
    assert_eq!(begin_all(&mut lanes), [10, 20, 11, 21]);
    for bot in [1, 2] {
        lanes.call_ended(bot, Some(true));
        assert_eq!(offer_each(&mut lanes, bot, bot * 10 + 2..bot * 10 + 9), 0, "bot {bot}");
    }
    assert_eq!(offer_each(&mut lanes, 3, 30..39), 4);
    assert_eq!(begin_all(&mut lanes), [30, 31], "others do as before");
    [10, 11].iter().for_each(|event| drop(lanes.parked(*event)));
    assert!(lanes.take_wants().bots.iter().all(|want| want.bot == 3), "two events are their whole share");
    assert!(!lanes.has_patient(), "nobody can begin one");
    lanes.parked(20);
    assert!(begin_all(&mut lanes).is_empty());
    assert!(lanes.take_wants().is_empty() && lanes.has_patient(), "they ask together");
    lanes.let_patient_ask();
    assert_eq!(bot_wants(&mut lanes), [(1, 1, None)], "one can begin one");
}

#[test]
fn bots_whose_last_call_failed_ask_in_turn_for_what_can_begin_and_none_is_forgotten() {
    let mut lanes = Lanes::new(Limits { failing_total: 1, ..LIMITS });
    for bot in 1..=3 {
        offer_each(&mut lanes, bot, bot * 10..bot * 10 + 2);
    }
    begin_all(&mut lanes);
    for bot in 1..=3 {
        lanes.call_ended(bot, Some(true));
        assert_eq!(offer_each(&mut lanes, bot, bot * 10 + 2..bot * 10 + 4), 0);
    }
    for event in [10, 11, 20, 21, 30] {
        lanes.parked(event);
    }
    assert!(lanes.take_wants().is_empty() && !lanes.has_patient(), "one has the whole share");
    lanes.parked(31);
    for (bot, event) in [(1, 12), (2, 22), (3, 32), (1, 13), (2, 23), (3, 33)] {
        assert!(lanes.has_patient());
        lanes.let_patient_ask();
        assert_eq!(bot_wants(&mut lanes), [(bot, 1, None)]);
        let row = Ticket { bot, ..ticket(event, event, event) };
        assert_eq!(lanes.refilled(bot, &[row], event % 10 == 2), [event]);
        assert_eq!(begin_all(&mut lanes), [event]);
        assert!(!lanes.has_patient());
        lanes.call_ended(bot, Some(true));
        lanes.parked(event);
    }
    assert!(lanes.bots.is_empty() && !lanes.has_patient());
}

#[test]
fn a_bot_that_gets_on_again_asks_whatever_the_others_have_under_way() {
    let mut lanes = Lanes::new(Limits { failing_total: 1, ..LIMITS });
    for bot in [1, 2] {
        offer_each(&mut lanes, bot, bot * 10..bot * 10 + 2);
    }
    begin_all(&mut lanes);
    for bot in [1, 2] {
        lanes.call_ended(bot, Some(true));
    }
    assert_eq!(offer_each(&mut lanes, 1, 12..14), 0);
    lanes.parked(10);
    assert!(bot_wants(&mut lanes).is_empty() && !lanes.has_patient());
    lanes.call_ended(1, Some(false));
    assert_eq!(bot_wants(&mut lanes).iter().map(|(bot, ..)| *bot).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_bot_that_gets_on_again_is_held_back_no_longer() {
    let mut lanes = Lanes::new(Limits { failing_total: 1, ..LIMITS });
    offer_each(&mut lanes, 1, 10..12);
    offer_each(&mut lanes, 2, 20..21);
    begin_all(&mut lanes);
    lanes.call_ended(1, Some(true));
    lanes.call_ended(2, Some(true));
    lanes.parked(10);
    assert_eq!(offer_each(&mut lanes, 1, 12..19), 0);
    lanes.call_ended(1, Some(false));
    lanes.finished(11);
    assert_eq!(offer_each(&mut lanes, 1, 12..19), 4);
    assert_eq!(begin_all(&mut lanes), [12, 13]);
}

#[test]
fn a_bot_whose_last_call_failed_is_known_again_after_it_held_nothing_for_a_while() {
    let mut lanes = Lanes::new(LIMITS);
    offer_each(&mut lanes, 1, 10..11);
    begin_all(&mut lanes);
    lanes.call_ended(1, Some(true));
    lanes.parked(10);
    assert!(lanes.bots.is_empty());
    assert_eq!(offer_each(&mut lanes, 1, 20..30), 2, "it holds nothing that waits");
    begin_all(&mut lanes);
    for event in [20, 21] {
        lanes.call_ended(1, Some(false));
        lanes.finished(event);
    }
    lanes.take_wants();
    lanes.refilled(1, &[], false);
    assert!(lanes.bots.is_empty());
    assert_eq!(offer_each(&mut lanes, 1, 30..40), 4);
}
