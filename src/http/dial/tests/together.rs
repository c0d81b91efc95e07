//! Several addresses of a host, one beside the other, in virtual time.

use tokio::net::TcpListener;

use super::*;

/// The default of `http.connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A little time: timers are told in milliseconds.
const LITTLE: Duration = Duration::from_millis(20);
/// What the slow address of these tests takes.
const SLOW: Duration = Duration::from_millis(400);

/// What came of dialling addresses that react so, one each.
struct Dialled {
    /// `None` if time was up.
    result: Option<io::Result<TcpStream>>,
    took: Duration,
    /// How many of them were dialled.
    count: usize,
    most_open: usize,
}

impl Dialled {
    fn is_connected(&self) -> bool {
        matches!(self.result, Some(Ok(_)))
    }

    fn error(self) -> io::Error {
        self.result.expect("an end").expect_err("a failure")
    }
}

/// Dials so many addresses at once, each of which reacts as it is told by its number.
async fn dial(count: u8, reaction: impl Fn(u8) -> Reaction + 'static) -> Dialled {
    let react = move |ip: IpAddr| match ip {
        IpAddr::V4(ip) => reaction(ip.octets()[3]),
        IpAddr::V6(_) => Reaction::Unreachable,
    };
    let recorded = Recorded::new(Egress::default(), "", react);
    recorded.record.answer.set(Some(a_connection().await));
    let addresses: Vec<SocketAddr> =
        (0..count).map(|number| SocketAddr::from(([1, 1, 1, number], 80))).collect();
    let began = Instant::now();
    let result = timeout(CONNECT_TIMEOUT, recorded.dialler.dial_any(&addresses)).await.ok();
    let record = &recorded.record;
    assert_eq!(record.open.get(), 0, "nothing stays open behind it");
    Dialled {
        result,
        took: began.elapsed(),
        count: record.dialled.borrow().len(),
        most_open: record.most_open.get(),
    }
}

async fn a_connection() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection")
}

#[tokio::test(start_paused = true)]
async fn a_host_that_swallows_everything_holds_two_sockets_and_all_its_addresses_are_tried() {
    for (addresses, tried, open) in [(1, 1, 1), (2, 2, 2), (3, 3, 2), (8, 8, 2), (20, 8, 2)] {
        let dialled = dial(addresses, |_| Reaction::Swallows).await;
        assert!(dialled.result.is_none(), "{addresses}");
        assert_eq!((dialled.count, dialled.most_open), (tried, open), "{addresses}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_behind_others_that_swallow_everything_waits_for_a_head_start_of_each() {
    for last in 0..8_u8 {
        let answers = move |number: u8| match number {
            number if number == last => Reaction::AnswersAfter(Duration::ZERO),
            _ => Reaction::Swallows,
        };
        let dialled = dial(8, answers).await;
        let waited = HEAD_START * u32::from(last);
        assert!(dialled.is_connected() && dialled.took >= waited, "{last}: {:?}", dialled.took);
        assert!(dialled.took < waited + LITTLE, "{last}: {:?}", dialled.took);
        assert!(dialled.most_open <= OPEN_MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_address_is_waited_for_wherever_it_stands() {
    for (addresses, slow) in [(1, 0), (2, 0), (2, 1), (8, 0), (8, 1), (8, 4), (8, 7)] {
        let answers = move |number: u8| match number {
            number if number == slow => Reaction::AnswersAfter(SLOW),
            _ => Reaction::Swallows,
        };
        let dialled = dial(addresses, answers).await;
        assert!(dialled.is_connected(), "{slow} of {addresses}");
        assert!(dialled.most_open <= OPEN_MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_has_two_head_starts_and_the_last_two_have_all_the_time() {
    let second = Duration::from_secs(1);
    for (slow, answers_after, is_connected) in [
        (0, HEAD_START * 2 - LITTLE, true),
        (0, HEAD_START * 2 + LITTLE, false),
        (5, HEAD_START * 2 - LITTLE, true),
        (5, HEAD_START * 2 + LITTLE, false),
        (6, second, true),
        (7, second, true),
    ] {
        let answers = move |number: u8| match number {
            number if number == slow => Reaction::AnswersAfter(answers_after),
            _ => Reaction::Swallows,
        };
        assert_eq!(dial(8, answers).await.is_connected(), is_connected, "{slow} after {answers_after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_refuses_makes_way_at_once() {
    let all = dial(8, |_| Reaction::Refuses).await;
    assert!(all.took < LITTLE, "{:?}", all.took);
    assert_eq!((all.count, all.most_open), (8, 1));
    assert_eq!(all.error().kind(), io::ErrorKind::ConnectionRefused);

    let beside = |number: u8| match number {
        0 => Reaction::Swallows,
        4 => Reaction::AnswersAfter(Duration::ZERO),
        _ => Reaction::Refuses,
    };
    let dialled = dial(8, beside).await;
    assert!(dialled.is_connected() && dialled.took < HEAD_START + LITTLE, "{:?}", dialled.took);
    assert_eq!((dialled.count, dialled.most_open), (5, 2));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_refuses_late_takes_no_time_from_the_one_beside_it() {
    let reaction = |number: u8| match number {
        0 => Reaction::RefusesAfter(HEAD_START + LITTLE),
        1 => Reaction::AnswersAfter(SLOW),
        _ => Reaction::Swallows,
    };
    assert!(dial(8, reaction).await.is_connected());
}

#[tokio::test(start_paused = true)]
async fn when_no_file_is_left_that_is_said_whatever_the_other_addresses_do() {
    let firsts: [fn() -> Reaction; 2] = [|| Reaction::Swallows, || Reaction::Refuses];
    for first in firsts {
        let dialled = dial(8, move |number| if number == 0 { first() } else { Reaction::NoFiles }).await;
        assert_eq!(dialled.count, 2);
        assert!(files::are_used_up(&dialled.error()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_host_itself_does_decides() {
    use io::ErrorKind::{ConnectionRefused, NetworkUnreachable};
    type Reacts = fn(u8) -> Reaction;
    let cases: [(Reacts, io::ErrorKind); 3] = [
        (|number| if number == 0 { Reaction::Refuses } else { Reaction::Unreachable }, ConnectionRefused),
        (|number| if number == 2 { Reaction::Refuses } else { Reaction::Unreachable }, ConnectionRefused),
        (|_| Reaction::Unreachable, NetworkUnreachable),
    ];
    for (number, (reaction, expected)) in cases.into_iter().enumerate() {
        let error = dial(4, reaction).await.error();
        assert_eq!(error.kind(), expected, "case {number}");
        assert_eq!(local::fault(&error).is_some(), expected == NetworkUnreachable, "case {number}");
    }
}
