//! The table of units of work says what the results say.

#[path = "../benches/common/table.rs"]
mod table;

#[test]
fn the_table_is_of_the_results() {
    if std::env::var_os("DREAM_BLESS").is_some() {
        std::fs::write(table::file(), table::table()).unwrap();
    }
    let found = std::fs::read_to_string(table::file()).unwrap_or_default();
    assert!(
        found == table::table(),
        "{} is not what its JSON says; make it anew with DREAM_BLESS=1 cargo test -p dreamc-golden --test bench_table",
        table::file().display()
    );
}
