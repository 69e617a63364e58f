use proptest::prelude::*;

use super::*;

fn room(n: u8) -> RoomName {
    RoomName::new(&format!("r{n}")).unwrap()
}

/// A message as the tests know it: of which room, the how manieth, how large.
type Item = (u8, u32, usize);

/// A connection that takes everything at once.
struct Line {
    shaper: Shaper<Item>,
    now: u64,
    sent: Vec<(u64, Item)>,
    counts: [u32; 4],
    /// Rooms that are asked, and how many messages of what size they have.
    asked: [(u32, usize); 4],
}

impl Line {
    fn new(rate: u64) -> Self {
        Self { shaper: Shaper::new(rate, 0), now: 0, sent: Vec::new(), counts: [0; 4], asked: [(0, 0); 4] }
    }

    fn push(&mut self, lane: u8, bytes: usize) {
        let count = &mut self.counts[usize::from(lane)];
        *count += 1;
        self.shaper.push(&room(lane), (lane, *count, bytes), bytes, self.now);
    }

    /// Sends what may be sent now.
    fn send(&mut self) {
        loop {
            match self.shaper.next(self.now) {
                Turn::Send(item) => self.sent.push((self.now, item)),
                Turn::Ask(name) => {
                    let lane = name.as_str()[1..].parse::<u8>().unwrap();
                    let (left, bytes) = &mut self.asked[usize::from(lane)];
                    if *left == 0 {
                        self.shaper.idle(&name);
                    } else {
                        *left -= 1;
                        let item = (lane, *left, *bytes);
                        self.shaper.sent(&name, *bytes);
                        self.sent.push((self.now, item));
                    }
                }
                Turn::Wait(until) => {
                    assert!(until > self.now);
                    assert_eq!(self.shaper.waits_until(), Some(until));
                    return;
                }
                Turn::Idle => return,
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            self.send();
            match self.shaper.waits_until().filter(|at| *at <= end) {
                Some(at) => self.now = at,
                None => break,
            }
        }
        self.now = end;
        self.send();
    }

    fn bytes(&self, lane: u8) -> usize {
        self.sent.iter().filter(|(_, item)| item.0 == lane).map(|(_, item)| item.2).sum()
    }
}

#[test]
fn a_loud_room_takes_nothing_from_a_quiet_one() {
    let mut line = Line::new(10_000);
    for _ in 0..60 {
        // Ten times as much as there is room for, and one that says little.
        (0..20).for_each(|_| line.push(0, 500));
        line.push(1, 100);
        line.pass(100);
    }
    assert_eq!(line.bytes(1), 6_000, "all of it");
    let (at, _) = line.sent.iter().rfind(|(_, item)| item.0 == 1).unwrap();
    assert!(line.now - at <= 600, "and within two turns: {at} of {}", line.now);
    assert!(line.bytes(0) > 45_000, "the other has the rest: {}", line.bytes(0));
}

#[test]
fn rooms_that_are_asked_share_like_those_that_queue() {
    let mut line = Line::new(20_000);
    line.asked[2] = (1_000, 300);
    line.shaper.ask(&room(2));
    (0..1_000).for_each(|_| line.push(0, 700));
    line.pass(5_000);
    let (asked, queued) = (line.bytes(2), line.bytes(0));
    assert!(asked.abs_diff(queued) <= 2 * QUANTUM as usize, "{asked} {queued}");
}

#[test]
fn answers_do_not_wait_and_are_paid_for() {
    let mut line = Line::new(10_000);
    line.shaper.spend(0, 1_000_000);
    line.push(0, 100);
    line.pass(900);
    assert!(line.sent.is_empty(), "the second is not over");
    line.pass(200);
    assert_eq!(line.sent.len(), 1);
}

#[test]
fn who_is_forgotten_sends_no_more_and_counts_no_more() {
    let mut line = Line::new(10_000);
    (0..100).for_each(|_| line.push(0, 1_000));
    line.push(1, 10);
    line.shaper.forget(&room(0));
    assert_eq!((line.shaper.bytes(), line.shaper.oldest()), (10, Some(0)));
    line.pass(10_000);
    assert_eq!(line.sent.len(), 1);
    assert!(line.shaper.lanes.is_empty() && line.shaper.ring.is_empty());
}

proptest! {
    #[test]
    fn order_rate_and_shares_hold(
        rate in 1_024u64..200_000,
        steps in prop::collection::vec((0u8..4, 1usize..3_000, 0u64..200), 1..300),
    ) {
        let mut line = Line::new(rate);
        let mut pushed = 0usize;
        for (lane, bytes, pass) in steps {
            line.push(lane, bytes);
            pushed += bytes;
            line.pass(pass);
            let sent: usize = line.sent.iter().map(|(_, item)| item.2).sum();
            prop_assert_eq!(line.shaper.bytes(), pushed - sent);
        }
        // While anybody waits, nobody who waits all the time is behind another by more than a turn and a message.
        let end = line.now + 1_000;
        let waiting: Vec<u8> = (0..4)
            .filter(|lane| line.shaper.lanes.get(&room(*lane)).is_some_and(|lane| lane.queue.len() > 2))
            .collect();
        let before = waiting.iter().map(|lane| line.bytes(*lane)).collect::<Vec<_>>();
        line.pass(end - line.now);
        let still = waiting.iter().zip(&before).filter(|(lane, _)| {
            line.shaper.lanes.get(&room(**lane)).is_some_and(|lane| !lane.queue.is_empty())
        });
        let gains: Vec<usize> = still.map(|(lane, before)| line.bytes(*lane) - before).collect();
        if let (Some(most), Some(least)) = (gains.iter().max(), gains.iter().min()) {
            prop_assert!(most - least <= 2 * (QUANTUM as usize + 3_000), "{gains:?}");
        }
        // All of it in the end.
        line.pass(1 + pushed as u64 * 1_000 / rate * 2 + 10_000);
        prop_assert_eq!(line.shaper.bytes(), 0);
        prop_assert!(line.shaper.oldest().is_none());
        // In order.
        for lane in 0..4 {
            let numbers: Vec<u32> = line.sent.iter().filter(|(_, item)| item.0 == lane).map(|(_, item)| item.1).collect();
            prop_assert_eq!(&numbers, &(1..=line.counts[usize::from(lane)]).collect::<Vec<_>>());
        }
        // No more than the bandwidth over any time.
        let slack = (line.shaper.burst() / 1_000) as u64 + 3_000;
        for (n, (from, _)) in line.sent.iter().enumerate() {
            let mut sum = 0;
            for (at, item) in &line.sent[n..] {
                sum += item.2 as u64;
                prop_assert!(sum <= (at - from) * rate / 1_000 + slack + 1, "{sum} bytes in {} ms", at - from);
            }
        }
    }
}
