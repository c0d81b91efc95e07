#![allow(clippy::expect_used)]

use std::collections::HashSet;

use super::*;

mod failing;
mod simulation;

const LIMITS: Limits =
    Limits { calls_per_bot: 2, waiting_per_bot: 4, waiting_total: 100, open_total: 100, failing_total: 50 };
const FRESH: Neighbours = Neighbours { earlier: false, later: false };

fn ticket(event: EventId, conversation: Conversation, message: MessageId) -> Ticket {
    Ticket { event, bot: 1, conversation, message, taken_at: event }
}

fn lanes_with(tickets: impl IntoIterator<Item = Ticket>) -> Lanes {
    let mut lanes = Lanes::new(LIMITS);
    for ticket in tickets {
        lanes.offer(ticket, FRESH);
    }
    lanes
}

#[test]
fn a_lane_runs_its_lowest_message_and_nothing_beside_it() {
    let mut lanes = lanes_with([ticket(1, 7, 30), ticket(2, 7, 20), ticket(3, 7, 10)]);
    for event in [3, 2, 1] {
        assert_eq!(lanes.next_event(), Some(event));
        assert_eq!(lanes.next_event(), None);
        lanes.finished(event);
    }
    assert_eq!(lanes.held(), 0);
    assert!(lanes.bots.is_empty());
}

#[test]
fn lanes_run_beside_each_other_up_to_the_bots_limit() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 8, 2), ticket(3, 9, 3)]);
    assert_eq!((lanes.next_event(), lanes.next_event()), (Some(1), Some(2)));
    assert_eq!(lanes.next_event(), None);
    lanes.finished(2);
    assert_eq!(lanes.next_event(), Some(3));
}

#[test]
fn calls_of_an_event_count_each_by_itself() {
    let mut lanes = lanes_with([ticket(1, 7, 1)]);
    lanes.next_event();
    lanes.opened(1, &[11, 12, 13]);
    assert_eq!((lanes.next_call(), lanes.next_call()), (Some((1, 11)), Some((1, 12))));
    assert_eq!(lanes.next_call(), None);
    lanes.call_ended(1, Some(false));
    assert_eq!(lanes.next_call(), Some((1, 13)));
}

#[test]
fn calls_that_had_to_wait_go_before_the_others_of_their_bot_in_their_order() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 8, 2)]);
    for event in [1, 2] {
        assert_eq!(lanes.next_event(), Some(event));
        lanes.opened(event, &[4, 5]);
    }
    for call in [(1, 4), (1, 5)] {
        assert_eq!(lanes.next_call(), Some(call));
        lanes.call_ended(1, None);
    }
    lanes.ready_again(&[(1, 4), (1, 5), (9, 9)]);
    assert_eq!((lanes.next_call(), lanes.next_call(), lanes.next_call()), (Some((1, 4)), Some((1, 5)), None));
    lanes.call_ended(1, None);
    assert_eq!(lanes.next_call(), Some((2, 4)));
}

#[test]
fn what_has_begun_of_a_bot_that_is_let_go_ends_and_nothing_else_of_it_is_kept() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 7, 2), ticket(3, 8, 3)]);
    assert_eq!(lanes.next_event(), Some(1));
    assert!(lanes.let_go(|bot| bot == 2).is_empty());
    let mut dropped = lanes.let_go(|bot| bot == 1);
    dropped.sort_unstable();
    assert_eq!((dropped, lanes.held(), lanes.next_event()), (vec![2, 3], 1, None));
    lanes.finished(1);
    assert_eq!(lanes.take_wants(), Wants::default());
    assert!(lanes.bots.is_empty());
}

#[test]
fn an_event_is_late_for_a_later_one_of_its_lane_that_runs() {
    let mut lanes = lanes_with([ticket(1, 7, 5)]);
    assert!(!lanes.runs_later(&ticket(2, 7, 4)), "it does not run yet");
    lanes.next_event();
    assert!(lanes.runs_later(&ticket(2, 7, 4)));
    assert!(!lanes.runs_later(&ticket(2, 7, 6)) && !lanes.runs_later(&ticket(2, 8, 4)));
}

#[test]
fn a_lane_that_is_looked_up_is_read_again_and_holds_nothing_meanwhile() {
    let mut lanes = lanes_with([]);
    lanes.look_up(ticket(1, 7, 1));
    let wants = lanes.take_wants();
    assert_eq!((wants.lanes.len(), lanes.held(), lanes.next_event()), (1, 0, None));
    assert_eq!(lanes.pulled(1, 7, &[ticket(1, 7, 1)], false), [1]);
    assert_eq!(lanes.next_event(), Some(1));
    lanes.look_up(ticket(1, 7, 1));
    lanes.finished(1);
    assert!(lanes.bots.is_empty());
}

#[test]
fn bots_take_turns_however_much_one_of_them_has() {
    let mut lanes = Lanes::new(Limits {
        calls_per_bot: 100,
        waiting_per_bot: 100,
        waiting_total: 1000,
        open_total: 1000,
        failing_total: 500,
    });
    for event in 0..50 {
        lanes.offer(ticket(event, event, event), FRESH);
    }
    lanes.offer(Ticket { bot: 2, ..ticket(100, 0, 0) }, FRESH);
    lanes.next_event();
    assert_eq!(lanes.next_event(), Some(100));
}

#[test]
fn an_event_without_room_is_left_and_asked_for_when_half_is_free() {
    let mut lanes = lanes_with((1..=4).map(|event| ticket(event, event, event)));
    assert_eq!(lanes.offer(ticket(5, 5, 5), FRESH), Offered::Left);
    assert!(lanes.take_wants().is_empty());
    lanes.next_event();
    lanes.next_event();
    let wants = lanes.take_wants();
    assert_eq!(wants.bots.len(), 1);
    assert_eq!(wants.bots[0].rows_max, 2);
    assert_eq!(wants.bots[0].held.iter().collect::<HashSet<_>>(), [1, 2, 3, 4].iter().collect());
    assert!(lanes.take_wants().is_empty());
}

#[test]
fn an_earlier_message_evicts_the_last_one_of_its_lane() {
    let mut lanes = lanes_with((1..=4).map(|event| ticket(event, 7, event * 10)));
    assert_eq!(lanes.offer(ticket(5, 7, 15), FRESH), Offered::Held { evicted: Some(4) });
    assert_eq!(lanes.offer(ticket(6, 7, 50), FRESH), Offered::Left);
}

#[test]
fn a_lane_waits_with_its_parked_event() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 7, 2)]);
    lanes.next_event();
    assert_eq!(lanes.parked(1), [2]);
    assert_eq!(lanes.next_event(), None);
    assert_eq!(lanes.offer(ticket(3, 7, 3), Neighbours { earlier: true, later: false }), Offered::Left);
    let wants = lanes.take_wants();
    assert_eq!(wants.lanes, [LaneWant { bot: 1, conversation: 7, rows_max: 4 }]);
    assert!(lanes.pulled(1, 7, &[], false).is_empty());
    assert!(lanes.bots.is_empty());
}

#[test]
fn an_event_that_is_handed_out_again_before_its_park_is_told_runs_again() {
    let hand_out: [fn(&mut Lanes); 2] = [
        |lanes| assert_eq!(lanes.offer(ticket(1, 7, 1), FRESH), Offered::Known),
        |lanes| lanes.look_up(ticket(1, 7, 1)),
    ];
    for hand_out in hand_out {
        let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 7, 2)]);
        assert_eq!(lanes.next_event(), Some(1));
        hand_out(&mut lanes);
        assert_eq!((lanes.parked(1), lanes.next_event()), (vec![2], None));
        assert_eq!(lanes.take_wants().lanes, [LaneWant { bot: 1, conversation: 7, rows_max: 4 }]);
        assert_eq!(lanes.pulled(1, 7, &[ticket(1, 7, 1), ticket(2, 7, 2)], false), [1, 2]);
        assert_eq!(lanes.next_event(), Some(1));
        // That it was handed out again does not count for its next turn.
        assert_eq!((lanes.parked(1), lanes.take_wants()), (vec![2], Wants::default()));
        assert!(lanes.bots.is_empty());
    }
}

#[test]
fn what_came_too_late_to_go_before_an_event_goes_on_when_that_is_parked() {
    for has_room in [true, false] {
        let waiting_per_bot = if has_room { 4 } else { 0 };
        let mut lanes = Lanes::new(Limits { waiting_per_bot, ..LIMITS });
        lanes.offer(ticket(1, 7, 10), FRESH);
        assert_eq!(lanes.next_event(), Some(1));
        let later = lanes.offer(ticket(2, 7, 20), FRESH);
        let earlier = lanes.offer(ticket(3, 7, 5), FRESH);
        let held = Offered::Held { evicted: None };
        assert_eq!((later, earlier), if has_room { (held, held) } else { (Offered::Left, Offered::Left) });
        assert_eq!(lanes.parked(1), if has_room { vec![2] } else { vec![] });
        if !has_room {
            assert_eq!(lanes.take_wants().lanes.len(), 1);
            assert_eq!(lanes.pulled(1, 7, &[ticket(3, 7, 5)], true), [3]);
        }
        assert_eq!(lanes.next_event(), Some(3));
        lanes.finished(3);
        assert_eq!(lanes.take_wants().lanes.len(), 1);
        assert!(lanes.pulled(1, 7, &[], true).is_empty());
        assert!(lanes.bots.is_empty());
    }
}

#[test]
fn a_lane_that_ran_empty_asks_for_what_was_left() {
    let mut lanes = lanes_with((1..=6).map(|event| ticket(event, 7, event)));
    for event in 1..=4 {
        assert_eq!(lanes.next_event(), Some(event));
        lanes.finished(event);
    }
    assert_eq!(lanes.next_event(), None);
    assert_eq!(lanes.take_wants().lanes, [LaneWant { bot: 1, conversation: 7, rows_max: 4 }]);
    assert_eq!(lanes.pulled(1, 7, &[ticket(5, 7, 5), ticket(6, 7, 6)], false), [5, 6]);
    assert_eq!(lanes.next_event(), Some(5));
}

/// Offers events of one bot each, and of a conversation each.
fn offer_each(lanes: &mut Lanes, bot: BotId, events: std::ops::Range<EventId>) -> usize {
    let offer = |event| lanes.offer(Ticket { bot, ..ticket(event, event, event) }, FRESH);
    events.map(offer).filter(|offered| matches!(offered, Offered::Held { .. })).count()
}

#[test]
fn an_event_that_can_begin_at_once_needs_no_room_to_wait_in() {
    let mut lanes = Lanes::new(Limits { waiting_total: 0, ..LIMITS });
    assert_eq!(offer_each(&mut lanes, 1, 0..10), 2);
    assert_eq!(offer_each(&mut lanes, 2, 10..20), 2);
    while lanes.next_event().is_some() {}
    assert_eq!(offer_each(&mut lanes, 1, 20..30), 0);
    lanes.finished(0);
    let wants = lanes.take_wants();
    assert_eq!(wants.bots.iter().map(|want| (want.bot, want.rows_max)).collect::<Vec<_>>(), [(1, 1)]);
}

#[test]
fn a_bot_has_no_more_waiting_than_there_are_places_free() {
    let limits = Limits { calls_per_bot: 1, waiting_per_bot: 64, waiting_total: 100, ..LIMITS };
    let mut lanes = Lanes::new(limits);
    let waiting: Vec<usize> =
        (0..5).map(|bot| offer_each(&mut lanes, bot, bot * 100..bot * 100 + 100)).collect();
    assert_eq!(waiting, [50, 25, 13, 6, 3]);
}

/// Begins whatever may begin, one call each.
fn begin_all(lanes: &mut Lanes) -> Vec<EventId> {
    let begun: Vec<EventId> = std::iter::from_fn(|| lanes.next_event()).collect();
    begun.iter().for_each(|event| lanes.opened(*event, &[1]));
    while lanes.next_call().is_some() {}
    begun
}

/// What is wanted of bots: how many rows of which, taken before which moment.
fn bot_wants(lanes: &mut Lanes) -> Vec<(BotId, usize, Option<Millis>)> {
    let wants = lanes.take_wants();
    assert!(wants.lanes.is_empty(), "{wants:?}");
    wants.bots.iter().map(|want| (want.bot, want.rows_max, want.taken_before)).collect()
}

/// Bot 1 with two events begun and two waiting, shut at the first of them.
fn shut_lanes(taken_before: Millis) -> Lanes {
    let mut lanes = lanes_with((11..=14).map(|event| ticket(event, event, event)));
    assert_eq!((lanes.next_event(), lanes.next_event()), (Some(11), Some(12)));
    let mut dropped = lanes.shut(11, taken_before);
    dropped.sort_unstable();
    assert_eq!((dropped, lanes.held()), (vec![13, 14], 1));
    lanes
}

#[test]
fn a_bot_that_is_shut_holds_nothing_and_asks_for_nothing_but_what_cant_wait() {
    let mut lanes = shut_lanes(11);
    assert_eq!(bot_wants(&mut lanes), [(1, 4, Some(11))]);
    assert!(lanes.refilled(1, &[], false).is_empty());
    assert_eq!(offer_each(&mut lanes, 1, 20..30), 0);
    assert!(bot_wants(&mut lanes).is_empty());
    assert!(lanes.shut(12, 11).is_empty());
    assert_eq!((bot_wants(&mut lanes), lanes.held(), lanes.next_event()), (vec![], 0, None));
    assert_eq!(offer_each(&mut lanes, 2, 30..31), 1, "others are not held back");
    assert_eq!(lanes.next_event(), Some(30));
}

#[test]
fn a_bot_that_is_shut_again_is_looked_through_again_only_for_what_was_not_looked_for() {
    let mut lanes = lanes_with([]);
    for (event, taken_before, asks) in [(10, 5, true), (11, 5, false), (12, 4, false), (13, 6, true)] {
        lanes.offer(ticket(event, event, event), FRESH);
        assert_eq!(lanes.next_event(), Some(event));
        lanes.shut(event, taken_before);
        let moments: Vec<_> = bot_wants(&mut lanes).into_iter().map(|(_, _, moment)| moment).collect();
        assert_eq!(moments, if asks { vec![Some(taken_before)] } else { vec![] });
        lanes.refilled(1, &[], false);
        assert!(bot_wants(&mut lanes).is_empty());
        lanes.reopen(1);
        assert_eq!(bot_wants(&mut lanes).len(), 1, "all of its rows");
        lanes.refilled(1, &[], true);
    }
}

#[test]
fn what_cant_wait_until_a_bot_is_reopened_runs_at_once_if_it_is_the_head_of_its_lane() {
    let mut lanes = shut_lanes(8);
    bot_wants(&mut lanes);
    let heads: Vec<Ticket> = [5, 6, 20].iter().map(|event| ticket(*event, *event, *event)).collect();
    assert_eq!(lanes.refilled(1, &heads, false), [5, 6], "one could not be meant: it can wait");
    assert_eq!(lanes.next_event(), Some(5));
    assert_eq!(lanes.offer(ticket(7, 7, 7), Neighbours { earlier: true, later: false }), Offered::Left);
    assert_eq!(lanes.offer(ticket(4, 4, 4), FRESH), Offered::Held { evicted: None });
    lanes.finished(5);
    assert_eq!((lanes.next_event(), lanes.next_event()), (Some(6), None));
}

#[test]
fn what_can_wait_is_let_in_only_to_go_before_what_cant() {
    let mut lanes = shut_lanes(8);
    assert_eq!(lanes.offer(ticket(5, 50, 100), FRESH), Offered::Held { evicted: None });
    assert_eq!(lanes.offer(ticket(21, 50, 110), FRESH), Offered::Left);
    assert_eq!(lanes.offer(ticket(20, 50, 90), FRESH), Offered::Held { evicted: Some(5) });
    assert_eq!(lanes.next_event(), Some(20));
}

#[test]
fn what_waited_behind_an_event_that_goes_on_is_looked_for_when_that_ends() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 8, 2), ticket(3, 8, 3)]);
    assert_eq!((lanes.next_event(), lanes.next_event()), (Some(1), Some(2)));
    assert_eq!(lanes.shut(1, 0), [3]);
    bot_wants(&mut lanes);
    lanes.refilled(1, &[], false);
    lanes.finished(2);
    assert_eq!(lanes.take_wants().lanes, [LaneWant { bot: 1, conversation: 8, rows_max: 4 }]);
    assert!(lanes.pulled(1, 8, &[ticket(3, 8, 3)], false).is_empty(), "it can wait");
    assert_eq!((bot_wants(&mut lanes), lanes.held()), (vec![], 0));
    lanes.reopen(1);
    assert_eq!(bot_wants(&mut lanes), [(1, 4, None)]);
}

#[test]
fn a_bot_that_is_reopened_asks_for_its_rows_once() {
    let mut lanes = shut_lanes(0);
    bot_wants(&mut lanes);
    lanes.refilled(1, &[], false);
    lanes.reopen(1);
    lanes.reopen(2);
    assert_eq!(bot_wants(&mut lanes), [(1, 4, None)]);
    lanes.reopen(1);
    assert_eq!(lanes.refilled(1, &[ticket(11, 11, 11)], false), [11]);
    assert_eq!((bot_wants(&mut lanes), lanes.next_event()), (vec![], Some(11)));
    assert_eq!(offer_each(&mut lanes, 1, 20..30), 4);
}

#[test]
fn a_page_that_was_read_before_a_bot_was_shut_is_left() {
    let mut lanes = lanes_with((1..=6).map(|event| ticket(event, 7, event)));
    for event in 1..=4 {
        assert_eq!(lanes.next_event(), Some(event));
        lanes.finished(event);
    }
    assert_eq!(lanes.take_wants().lanes.len(), 1);
    assert_eq!(lanes.next_event(), None);
    lanes.offer(ticket(10, 10, 10), FRESH);
    assert_eq!(lanes.next_event(), Some(10));
    lanes.shut(10, 0);
    assert!(lanes.pulled(1, 7, &[ticket(5, 7, 5), ticket(6, 7, 6)], false).is_empty());
    assert_eq!((lanes.held(), lanes.next_event()), (0, None));
    lanes.reopen(1);
    assert_eq!(bot_wants(&mut lanes), [(1, 4, None)]);
}
