//! Which columns the table of bottles has, and how wide they are: the wider the terminal, the more.

use crate::control::LiveBottle;

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Its name.
    Bottle,
    /// The role in it.
    Agent,
    /// Whose budget governs.
    Provider,
    /// What it is.
    State,
    /// What happens when the budget is gone.
    Policy,
    /// How much of the budget is used, as a picture and in percent.
    Gauge,
    /// The same in numbers.
    Amount,
    /// Whose the budget is.
    Scope,
    /// Tokens a minute.
    Burn,
    /// The last five minutes.
    Spark,
    /// How long the budget lasts.
    Lasts,
    /// Requests on their way.
    Flying,
    /// Bytes that passed.
    Traffic,
    /// Packets that did not.
    Drops,
}

/// Every column in order, with its width in a terminal of 80 columns; 0 when it has none there.
const NARROW: [(Column, usize); 14] = [
    (Column::Bottle, 11),
    (Column::Agent, 8),
    (Column::Provider, 6),
    (Column::State, 9),
    (Column::Policy, 6),
    (Column::Gauge, 12),
    (Column::Amount, 0),
    (Column::Scope, 0),
    (Column::Burn, 5),
    (Column::Spark, 0),
    (Column::Lasts, 5),
    (Column::Flying, 3),
    (Column::Traffic, 0),
    (Column::Drops, 5),
];
/// Columns of the narrowest table: one for the cursor, and one before every column but the first.
const NARROW_CELLS: usize = 80;
/// A name is not given more, however long it is.
const NAME_CELLS_MAX: usize = 28;

impl Column {
    /// What stands above it.
    pub(super) fn title(self, cells: usize) -> &'static str {
        match self {
            Self::Bottle => "BOTTLE",
            Self::Agent => "AGENT",
            Self::Provider if cells < 8 => "PROV",
            Self::Provider => "PROVIDER",
            Self::State => "STATE",
            Self::Policy => "POLICY",
            Self::Gauge => "BUDGET USED",
            Self::Amount => "USED/LIMIT",
            Self::Scope => "BUDGET OF",
            Self::Burn => "/MIN",
            Self::Spark => "LAST 5 MINUTES",
            Self::Lasts => "LASTS",
            Self::Flying => "FLY",
            Self::Traffic => "SENT/GOT",
            Self::Drops => "DROPS",
        }
    }

    /// Numbers stand to the right.
    pub(super) fn is_right(self) -> bool {
        match self {
            Self::Amount | Self::Burn | Self::Lasts | Self::Flying | Self::Traffic | Self::Drops => true,
            Self::Bottle
            | Self::Agent
            | Self::Provider
            | Self::State
            | Self::Policy
            | Self::Gauge
            | Self::Scope
            | Self::Spark => false,
        }
    }
}

/// The columns of a table of so many cells, with their widths.
pub(super) fn columns(cells: usize, rows: &[&LiveBottle]) -> Vec<(Column, usize)> {
    let longest =
        |of: &dyn Fn(&LiveBottle) -> usize| rows.iter().map(|bottle| of(bottle)).max().unwrap_or(0).min(NAME_CELLS_MAX);
    let name = longest(&|bottle| bottle.info.name.as_str().len());
    let agent = longest(&|bottle| bottle.info.agent.as_ref().map_or(0, |agent| agent.as_str().len()));
    let wishes = [
        (Column::Bottle, name.min(16)),
        (Column::Amount, 11),
        (Column::Provider, 8),
        (Column::Spark, 20),
        (Column::Bottle, name),
        (Column::State, 16),
        (Column::Scope, 16),
        (Column::Agent, agent),
        (Column::Traffic, 12),
        (Column::Gauge, 25),
        (Column::Spark, 30),
        (Column::Spark, 60),
    ];
    let mut widths = NARROW;
    let mut spare = cells.saturating_sub(NARROW_CELLS);
    for (column, wanted) in wishes {
        for (_, width) in widths.iter_mut().filter(|(known, width)| *known == column && *width < wanted) {
            let gap = usize::from(*width == 0);
            let needed = wanted - *width + gap;
            if needed <= spare {
                spare -= needed;
                *width = wanted;
            }
        }
    }
    widths.into_iter().filter(|(_, width)| *width > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::tests::sample;

    #[test]
    fn every_table_fits() {
        let bottles = ["web", "a-bottle-whose-name-is-as-long-as-names-become-1"].map(sample::bottle);
        let rows: Vec<&LiveBottle> = bottles.iter().collect();
        for cells in 80..300 {
            let columns = columns(cells, &rows);
            let taken: usize = columns.iter().map(|(_, width)| width + 1).sum();
            assert!(taken <= cells, "{taken} of {cells}: {columns:?}");
            for (column, width) in columns {
                assert!(column.title(width).len() <= width, "{column:?} in {width}");
            }
        }
        assert_eq!(columns(80, &rows).len(), 10);
        assert_eq!(columns(220, &rows).len(), 14);
    }
}
