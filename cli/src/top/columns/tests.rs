//! Sorting, and which columns have room.

use serde_json::{Value, json};

use super::super::fixture::{NOW, answers, vitals};
use super::super::model::{Liveness, Model};
use super::*;

fn processes(all: &[Value]) -> Vec<Process> {
    Model::of(&answers(all), &mut Liveness::default(), NOW).processes
}

fn order(processes: &mut [Process], sorting: Sorting) -> String {
    sorting.sort(processes);
    let ids: Vec<_> = processes.iter().map(|process| process.id.as_str()).collect();
    ids.join(" ")
}

#[test]
fn every_column_has_a_key_and_a_name_of_its_own() {
    for (n, column) in Column::ALL.iter().enumerate() {
        assert_eq!(Column::by_key(column.key()), Some(*column));
        let rest = &Column::ALL[n + 1..];
        assert!(rest.iter().all(|other| other.name() != column.name() && other.title() != column.title()));
        assert!(!"qr?".contains(column.key()), "{column:?}: the key does something else");
        assert!(!column.name().contains(char::is_whitespace));
    }
}

#[test]
fn measured_values_fall_names_rise_and_what_is_unknown_is_last_both_ways() {
    let mut all = processes(&[
        vitals("node", "a", json!({"cpu_percent": 10, "latency_ms": null})),
        vitals("node", "b", json!({"cpu_percent": 30, "draining": true})),
        vitals("node", "c", json!({"cpu_percent": 20})),
        vitals("gateway", "0", json!({"cpu_percent": null})),
    ]);
    let by = Sorting::by;
    let turned = |column| Sorting { column, reversed: true };
    assert_eq!(order(&mut all, by(Column::Kind)), "a b c 0");
    assert_eq!(order(&mut all, by(Column::Id)), "0 a b c");
    assert_eq!(order(&mut all, turned(Column::Id)), "c b a 0");
    assert_eq!(order(&mut all, by(Column::Cpu)), "b c a 0");
    assert_eq!(order(&mut all, turned(Column::Cpu)), "a c b 0");
    assert_eq!(order(&mut all, by(Column::P99)), "b c a 0");
    assert_eq!(order(&mut all, by(Column::State)), "b a c 0");
}

#[test]
fn columns_go_by_importance_and_what_is_sorted_by_stays() {
    let all = processes(&[vitals("node", "a", json!({})), vitals("gateway", "g1", json!({}))]);
    let shown = |column: Column, width: usize| -> Vec<Column> {
        place(&all, Sorting::by(column), NOW, width).iter().map(|placed| placed.column).collect()
    };
    assert_eq!(shown(Column::Kind, 160), Column::ALL);
    for by in Column::ALL.iter().copied() {
        let mut wider: Vec<Column> = Column::ALL.to_vec();
        for width in (1..=160).rev() {
            let placed = place(&all, Sorting::by(by), NOW, width);
            let now: Vec<_> = placed.iter().map(|placed| placed.column).collect();
            assert!(now.iter().all(|column| wider.contains(column)), "{width}: {now:?} of {wider:?}");
            assert!(now.is_sorted_by_key(|column| Column::ALL.iter().position(|one| one == column)));
            assert_eq!(now[0], Column::Id);
            assert!(width < 30 || now.contains(&by), "{width}: {now:?} by {by:?}");
            let taken = placed.iter().map(|one| one.width + GAP).sum::<usize>() - GAP;
            assert!(taken <= width, "{taken} of {width}");
            wider = now;
        }
    }
    let narrow = shown(Column::Kind, 80);
    for column in [Column::State, Column::Clients, Column::Cpu, Column::Delivered, Column::P99] {
        assert!(narrow.contains(&column), "{narrow:?}");
    }
    assert!(!narrow.contains(&Column::Conflated), "{narrow:?}");
    assert!(shown(Column::Conflated, 80).contains(&Column::Conflated));
}

#[test]
fn a_long_name_gives_way_before_a_column_does() {
    let long = "tickmesh-node-with-a-name-that-goes-on-and-on-7c9d8b-x2x9p";
    let short = processes(&[vitals("node", "twelve-chars", json!({}))]);
    let all = processes(&[vitals("node", long, json!({}))]);
    for width in 40..160 {
        let columns = |all| place(all, Sorting::by(Column::Cpu), NOW, width).len();
        assert_eq!(columns(&all), columns(&short), "{width}");
    }
    assert_eq!(place(&all, Sorting::by(Column::Cpu), NOW, 250)[0].width, LONGEST_ID);
}
