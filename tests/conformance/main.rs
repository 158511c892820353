//! Every store keeps the same promises: one table of cases, run against each store.
//!
//! A new store implements [`Place`], says what it can do, and joins the list at the end.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod history;
mod model;
mod place;
mod races;
mod reads;
mod script;
mod writes;

use place::{File, Memory};

/// Runs every case against one kind of place.
macro_rules! conformance {
    ($store:ident, $place:expr, [$($module:ident::$case:ident),* $(,)?]) => {
        mod $store {
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    crate::$module::$case(&$place).await;
                }
            )*
        }
    };
}

/// The table of cases.
macro_rules! every_case {
    ($store:ident, $place:expr) => {
        conformance!(
            $store,
            $place,
            [
                writes::creates_replaces_and_deletes,
                writes::preconditions_hold_or_refuse,
                writes::a_batch_is_all_or_nothing,
                writes::a_batch_sees_its_own_operations,
                writes::unchanged_puts_write_nothing,
                writes::a_rehearsal_tells_what_a_write_would_do,
                writes::revisions_grow_with_every_change,
                writes::records_are_set_and_removed,
                writes::a_large_value_is_kept,
                writes::keys_that_cannot_be_stored_are_refused,
                writes::names_are_unique_where_asked,
                writes::a_closed_store_says_so,
                races::compare_and_write_loses_no_update,
                races::one_of_many_creators_wins,
                races::one_of_delete_and_change_wins,
                races::concurrent_batches_never_mix,
                races::a_reader_without_hints_catches_up,
                reads::lists_are_ordered_filtered_and_paged,
                reads::heads_agree_with_rows,
                reads::zones_are_kept_beside_secrets,
                history::the_served_set_moves_only_with_what_is_served,
                history::tombstones_come_and_go,
                history::a_mapped_key_hides_a_row_of_its_name,
                history::old_history_is_forgotten,
                history::old_tombstones_are_forgotten,
                history::a_restart_keeps_everything,
                script::agrees_with_a_naive_model,
            ]
        );
    };
}

every_case!(file, File::new());
every_case!(memory, Memory::new());
