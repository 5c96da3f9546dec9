//! `mdb show`.

use super::failure::Failure;
use super::output::{Output, list, or_dash};
use crate::api::{Client, MulticastGroupView, query};

pub async fn show(client: &mut Client, network: Option<&str>, output: Output) -> Result<(), Failure> {
    let groups: Vec<MulticastGroupView> = client.get(&format!("/mdb{}", query(&[("network", network)]))).await?;
    output.rows(
        &groups,
        |group| group.group.to_string(),
        ["GROUP", "NETWORK", "VLAN", "PORTS", "EXPIRES"],
        |group| {
            [
                group.group.to_string(),
                group.network.clone(),
                format!("{}{}", if group.service_tag { "s" } else { "" }, group.vlan),
                list(&group.ports),
                or_dash(group.expires_in),
            ]
        },
    )
}
