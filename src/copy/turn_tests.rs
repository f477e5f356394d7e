use std::time::Duration;

use super::*;

#[test]
fn turns_come_in_order() {
    let turn = Turn::default();
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for index in [3, 0, 2, 1, 4] {
            let (turn, order) = (&turn, &order);
            scope.spawn(move || {
                assert!(turn.wait(index));
                order.lock().unwrap().push(index);
                turn.pass(index);
            });
        }
    });
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn stopping_wakes_everybody() {
    let turn = Turn::default();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| turn.wait(7));
        std::thread::sleep(Duration::from_millis(20));
        turn.stop();
        assert!(!waiting.join().unwrap());
    });
    assert!(!turn.wait(0));
}
