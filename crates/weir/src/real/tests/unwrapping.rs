//! What is unwrapped, and by which program.

use super::*;

impl World {
    /// Segment sizes and the GUE port as the programs know them, and as the record has them.
    fn known(&self) -> ((u16, u16), u16) {
        self.on_real(|| {
            let tables = Tables::open(&self.state.join("bpf")).unwrap();
            let known = (tables.segment_sizes().unwrap(), tables.gue_port().unwrap());
            let journal = Journal::read(&self.state).unwrap().unwrap();
            let setup = journal.setup().unwrap();
            assert_eq!(known, ((setup.mss_v4, setup.mss_v6), setup.gue_port));
            known
        })
    }
}

#[test]
fn gue_is_unwrapped_on_the_port_asked_for_and_leaves_less_room() {
    let world = World::new();
    let before = world.snapshot();
    world.up("").unwrap();
    assert_eq!(world.known(), ((1420, 1400), 0));
    world.up("--gue-port 6080").unwrap();
    assert_eq!(world.known(), ((1412, 1392), 6080));
    assert_eq!(world.problems(), Vec::<String>::new());
    // A failed change leaves what was there: another's program is where it would unwrap.
    let other = world.on_real(|| {
        let index = Rtnl::open().unwrap().link_by_name("eth1").unwrap().index;
        attach_pass(index, None).unwrap()
    });
    world.weir("up --vip 192.0.2.99 --from 10.77.1.1 --xdp-mode native --gue-port 7").unwrap_err();
    assert_eq!(world.known(), ((1412, 1392), 6080));
    drop(other);
    world.up("").unwrap();
    assert_eq!(world.known(), ((1420, 1400), 0));
    world.down();
    assert_same(&before, &world.snapshot());
}
