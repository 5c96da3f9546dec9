//! The three output formats of results: JSON, a plot, and tables.

mod json;
mod labels;
#[cfg(feature = "full")]
mod plot;
mod table;

pub use json::write as write_json;
#[cfg(feature = "full")]
pub use plot::write as write_plot;
pub use table::{align_right, costs as cost_table, figures as figure_table, goals as goal_table, table};
