//! What leaves: every request once, in order, whatever is settled meanwhile; totals that are the sums of rows.

use rusqlite::params;

use super::{World, reserve, settle, usage};
use crate::domain::{BottleName, Ending, GroupBy, Known, Tokens, UnixMillis, Usage, UsageKey, UsageTally};
use crate::ledger::{BottleRow, UsageSlice};

/// Every combination of bottle, agent, provider and end that the rows have.
const TALLY_DIFFERENCES: &str = "
    WITH total AS (
        SELECT bottle, ifnull(agent, ''), provider, known, ending, count(*), sum(input), sum(cache_write),
               sum(cache_read), sum(output)
        FROM usage GROUP BY 1, 2, 3, 4, 5
    )
    SELECT (SELECT count(*) FROM (SELECT * FROM total EXCEPT SELECT * FROM tally))
         + (SELECT count(*) FROM (SELECT * FROM tally EXCEPT SELECT * FROM total))";

async fn spend(world: &World, bottle: &BottleRow, model: &str, input: u64) {
    let request = reserve(bottle, "claude", input, 0);
    let permit = world.ledger().admit(request).await.unwrap().unwrap().permit;
    let settlement = crate::domain::Settlement { model: Some(model.to_owned()), ..settle(permit, input, 1) };
    world.ledger().settle(settlement).await.unwrap();
}

/// All pages of so many rows: their inputs.
async fn pages(world: &World, slice: &UsageSlice, rows_max: u32) -> Vec<u64> {
    let (mut slice, mut inputs) = (slice.clone(), Vec::new());
    let mut total = None;
    for turn in 0..100 {
        let page = world.ledger().usage_page(slice.clone(), rows_max).await.unwrap();
        assert!(page.rows.len() <= rows_max as usize);
        assert_eq!(page.total.is_some(), turn == 0, "it is counted once");
        total = total.or(page.total);
        inputs.extend(page.rows.iter().map(|row| row.usage.input.0));
        slice.after = page.next;
        if page.next.is_none() {
            assert!(total >= Some(inputs.len() as u64));
            return inputs;
        }
    }
    panic!("no end");
}

/// Five requests of two bottles, one second after another; two of them within one.
async fn five() -> World {
    let world = World::new(&[]);
    let (web, api) = (world.run("web", &[]).await, world.run("api", &[]).await);
    let start = world.now();
    for (number, (bottle, model, second)) in
        [(&web, "m", 0), (&api, "m", 1), (&web, "n", 1), (&web, "m", 2), (&api, "m", 3)].into_iter().enumerate()
    {
        world.set_clock(start + second * 1_000);
        spend(&world, bottle, model, number as u64 + 1).await;
    }
    world
}

#[tokio::test]
async fn every_request_leaves_once_in_order() {
    let world = five().await;
    let all = UsageSlice::default();
    for rows_max in 1..7 {
        assert_eq!(pages(&world, &all, rows_max).await, [1, 2, 3, 4, 5], "{rows_max} a page");
    }
    let of = UsageSlice { bottle: Some("web".parse().unwrap()), ..all.clone() };
    for rows_max in 1..5 {
        assert_eq!(pages(&world, &of, rows_max).await, [1, 3, 4]);
    }
    let since = UsageSlice { since: Some(UnixMillis(world.now() - 2_000)), ..all.clone() };
    assert_eq!(pages(&world, &since, 2).await, [2, 3, 4, 5]);
    let last = UsageSlice { last: Some(3), ..all.clone() };
    assert_eq!(pages(&world, &last, 2).await, [3, 4, 5]);
    let both = UsageSlice { last: Some(1), ..of.clone() };
    assert_eq!(pages(&world, &both, 2).await, [4]);
    assert_eq!(pages(&world, &UsageSlice { last: Some(100), ..since }, 2).await, [2, 3, 4, 5]);
    for nothing in
        [UsageSlice { last: Some(0), ..all.clone() }, UsageSlice { since: Some(UnixMillis(i64::MAX)), ..all }]
    {
        assert!(pages(&world, &nothing, 2).await.is_empty(), "{nothing:?}");
    }
}

#[tokio::test]
async fn what_is_settled_during_an_export_comes_at_its_end() {
    let world = five().await;
    let first = world.ledger().usage_page(UsageSlice::default(), 3).await.unwrap();
    let web = world.ledger().bottle(&"web".parse().unwrap()).await.unwrap();
    spend(&world, &web, "m", 6).await;
    let rest = UsageSlice { after: first.next, ..UsageSlice::default() };
    let rest = world.ledger().usage_page(rest, 10).await.unwrap();
    assert_eq!(rest.rows.iter().map(|row| row.usage.input.0).collect::<Vec<_>>(), [4, 5, 6]);
}

#[tokio::test]
async fn pages_of_sums_add_up() {
    let world = five().await;
    let sums = async |by: &[GroupBy], rows_max| {
        let (mut slice, mut found) = (UsageSlice::default(), std::collections::BTreeMap::<UsageKey, (u64, u64)>::new());
        loop {
            let page = world.ledger().usage_sums_page(slice.clone(), by.to_vec(), rows_max).await.unwrap();
            for (quarter, group) in page.groups {
                assert_eq!(quarter.is_some(), by.contains(&GroupBy::Day));
                let sum = found.entry(group.key).or_default();
                *sum = (sum.0 + group.requests, sum.1 + group.usage.input.0);
            }
            slice.after = page.next;
            if page.next.is_none() {
                return found.into_iter().collect::<Vec<_>>();
            }
        }
    };
    let of = |bottle: Option<&str>, model: Option<&str>| UsageKey {
        bottle: bottle.map(|name| name.parse().unwrap()),
        model: model.map(str::to_owned),
        ..UsageKey::default()
    };
    for rows_max in 1..7 {
        assert_eq!(
            sums(&[GroupBy::Bottle], rows_max).await,
            [(of(Some("api"), None), (2, 7)), (of(Some("web"), None), (3, 8))]
        );
        assert_eq!(
            sums(&[GroupBy::Model], rows_max).await,
            [(of(None, Some("m")), (4, 12)), (of(None, Some("n")), (1, 3))]
        );
        let by_agent = sums(&[GroupBy::Agent, GroupBy::Provider], rows_max).await;
        let key = UsageKey { agent: "reviewer".parse().ok(), provider: "claude".parse().ok(), ..UsageKey::default() };
        assert_eq!(by_agent, [(key, (5, 15))]);
    }
    let day = world.ledger().usage_sums_page(UsageSlice::default(), vec![GroupBy::Day], 10).await.unwrap();
    let [(Some(quarter), _)] = day.groups.as_slice() else { panic!("{day:?}") };
    assert_eq!((quarter.0 % 900_000, quarter.0 / 900_000), (0, world.now() / 900_000));
}

#[tokio::test]
async fn totals_are_the_sums_of_rows_and_survive() {
    let mut world = five().await;
    let web = world.ledger().bottle(&"web".parse().unwrap()).await.unwrap();
    // One that nobody saw end.
    world.ledger().admit(reserve(&web, "codex", 70, 7)).await.unwrap().unwrap();
    world.ledger().settle_open(Ending::ProxyLost).await.unwrap();
    world.reopen();
    let differences: i64 = world.sql().query_row(TALLY_DIFFERENCES, [], |row| row.get(0)).unwrap();
    assert_eq!(differences, 0);
    let tallies = world.ledger().usage_tallies().await.unwrap();
    let tally = |bottle: &str, provider: &str, (known, ending), requests, usage: Usage| UsageTally {
        bottle: bottle.parse::<BottleName>().unwrap(),
        agent: Some("reviewer".parse().unwrap()),
        provider: provider.parse().unwrap(),
        known,
        ending,
        requests,
        usage,
    };
    let whole = (Known::Reported, Ending::Complete);
    let expected = [
        tally("api", "claude", whole, 2, usage(7, 2)),
        tally("web", "claude", whole, 3, usage(8, 3)),
        tally("web", "codex", (Known::Estimated, Ending::ProxyLost), 1, usage(70, 7)),
    ];
    assert_eq!(tallies, expected);
}

#[tokio::test]
async fn a_total_that_is_full_keeps_no_request_from_being_settled() {
    let world = five().await;
    world.sql().execute("UPDATE tally SET input = ?1", params![i64::MAX - 1]).unwrap();
    let web = world.ledger().bottle(&"web".parse().unwrap()).await.unwrap();
    spend(&world, &web, "m", 9).await;
    let tallies = world.ledger().usage_tallies().await.unwrap();
    let of_web = tallies.iter().find(|tally| tally.bottle == web.name).unwrap();
    assert_eq!((of_web.usage.input, of_web.requests), (Tokens(i64::MAX as u64), 4));
}

#[tokio::test]
async fn an_index_gives_pages_in_order() {
    let world = five().await;
    let plan = |condition: &str| -> String {
        let connection = world.sql();
        let sql = format!("EXPLAIN QUERY PLAN SELECT model FROM usage WHERE {condition} ORDER BY settled, permit");
        let mut statement = connection.prepare(&sql).unwrap();
        let lines = statement.query_map([], |row| row.get::<_, String>(3)).unwrap();
        lines.map(Result::unwrap).collect::<Vec<_>>().join("\n")
    };
    let range = "(settled, permit) > (1, 2) AND (settled, permit) <= (3, 4)";
    for condition in [range.to_owned(), format!("{range} AND (1 IS NULL OR bottle = 1)")] {
        let plan = plan(&condition);
        assert!(plan.contains("usage_by_time") && !plan.contains("TEMP B-TREE"), "{plan}");
    }
}
