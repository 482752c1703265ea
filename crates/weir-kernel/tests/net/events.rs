//! What the monitor reports.

use std::{
    sync::mpsc::{self, Receiver},
    time::Duration,
    time::Instant,
};

use weir_kernel::net::{Change, Event, Monitor, Neighbour, NewAddress};

use crate::space::{PATIENCE, Pair, ip, mac, route};

fn wait_for(events: &Receiver<Event>, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
    let end = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while let Ok(event) = events.recv_timeout(end.saturating_duration_since(Instant::now())) {
        if wanted(&event) {
            return event;
        }
        seen.push(event);
    }
    panic!("no {what} among {seen:#?}");
}

#[test]
fn the_monitor_reports_changes() {
    let pair = Pair::new();
    let rtnl = &pair.director.rtnl;
    pair.next_hop("192.0.2.2", None).unwrap();
    let (monitor, events) = Monitor::channel_in(&pair.director.netns, 1024).unwrap();

    let moved = mac("02:00:00:00:00:42");
    rtnl.add_permanent_neighbour(pair.index, ip("192.0.2.2"), moved).unwrap();
    wait_for(&events, "neighbour", |event| {
        matches!(event, Event::Neighbour(Change::Set, Neighbour { ip: found, mac, .. })
            if *found == ip("192.0.2.2") && *mac == Some(moved))
    });
    rtnl.add_address(&NewAddress::new(pair.index, ip("198.51.100.1"), 32)).unwrap();
    wait_for(
        &events,
        "address",
        |event| matches!(event, Event::Address(Change::Set, address) if address.ip == ip("198.51.100.1")),
    );
    rtnl.add_route(&route("2001:db8:9::/48").via(ip("2001:db8::2"))).unwrap();
    let event = wait_for(
        &events,
        "route",
        |event| matches!(event, Event::Route(Change::Set, route) if route.gateway == Some(ip("2001:db8::2"))),
    );
    assert_eq!(event.ifindex(), Some(pair.index));
    // The backend goes away: the director's end loses its carrier.
    pair.backend.rtnl.set_down(pair.backend.link("down0").index).unwrap();
    wait_for(
        &events,
        "link without carrier",
        |event| matches!(event, Event::Link(Change::Set, link) if link.name == "up0" && !link.running),
    );
    rtnl.delete_link(pair.index).unwrap();
    wait_for(
        &events,
        "deleted link",
        |event| matches!(event, Event::Link(Change::Gone, link) if link.index == pair.index),
    );
    let start = Instant::now();
    drop(monitor);
    assert!(start.elapsed() < Duration::from_secs(1), "stops at once");
    while events.recv_timeout(Duration::from_secs(1)).is_ok() {}
    assert!(events.recv().is_err(), "nothing comes after the monitor");
}

#[test]
fn a_full_channel_ends_in_an_overrun() {
    let pair = Pair::new();
    let (_monitor, events) = Monitor::channel_in(&pair.director.netns, 2).unwrap();
    for number in 1..=20 {
        pair.director
            .rtnl
            .add_address(&NewAddress::new(pair.index, ip(&format!("198.51.100.{number}")), 32))
            .unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    wait_for(&events, "overrun", |event| *event == Event::Overrun);
    // It goes on afterwards.
    let gone = ip("198.51.100.1");
    pair.director.rtnl.del_address(pair.index, gone, 32).unwrap();
    wait_for(&events, "removed address", |event| {
        matches!(event, Event::Address(Change::Gone, address) if address.ip == gone)
            || *event == Event::Overrun
    });
}

#[test]
fn a_slow_receiver_learns_that_the_kernel_dropped_events() {
    let pair = Pair::new();
    let rtnl = &pair.director.rtnl;
    let (go_on, wait) = mpsc::channel::<()>();
    let (sender, events) = mpsc::channel();
    let start = move || {
        Monitor::start(move |event| {
            // Blocks until the test lets go, at most for a while.
            let _ = wait.recv_timeout(PATIENCE);
            let _ = sender.send(event);
        })
    };
    let monitor = pair.director.netns.run_in(start).unwrap().unwrap();
    let mut flapping = route("198.51.100.0/24").via(ip("192.0.2.2"));
    for number in 0..10_000 {
        flapping.mtu = Some(1300 + number % 2);
        rtnl.replace_route(&flapping).unwrap();
    }
    drop(go_on);
    wait_for(&events, "overrun", |event| *event == Event::Overrun);
    drop(monitor);
}
