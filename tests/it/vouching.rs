//! No file is compiled or run before its bytes are signed by a team or listed in the lock file.

use minisign::KeyPair;
use serde_json::Value;

use crate::harness::{Host, Plugins, bomb, describing, descriptor};

/// To compile it would take minutes.
#[test]
fn a_file_that_is_not_listed_is_not_compiled() {
    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    let teams = format!("[plugins.teams.checkout]\nkey = \"{}\"\n", keys.pk.to_base64());
    let bomb = bomb(6_000);
    for (teams, says) in
        [("", "plugins.lock does not list the component"), (&*teams, "the component is not signed")]
    {
        let plugins = Plugins::new(&[]).add("offered.wasm", &bomb);
        let plugins = if teams.is_empty() { plugins.add("plugins.lock", "") } else { plugins };
        let host =
            Host::without_brokers(says, &plugins, &format!("{teams}[limits]\ncompile-time = \"2s\"\n"));
        let refused = host.log().until_said("plugin refused");
        assert!(refused.field("reason").contains(says), "{}", refused.text);
    }
}

/// The file that comes first by name claims the name of a projection that only the other one may have.
#[test]
fn a_file_that_is_not_signed_takes_no_name() {
    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    let of_version = |version: &str| {
        let mut declared: Value = serde_json::from_str(&descriptor("sound")).unwrap();
        declared["version"] = version.into();
        describing(&declared.to_string()).component()
    };
    let signed = of_version("1.0.0");
    let signature = minisign::sign(
        Some(&keys.pk),
        &keys.sk,
        &signed[..],
        Some("projector name=sound version=1.0.0"),
        None,
    );
    let plugins = Plugins::new(&[])
        .add("0.wasm", of_version("6.6.6"))
        .add("sound.wasm", &signed)
        .add("sound.wasm.minisig", signature.unwrap().into_string());
    let teams = format!("[plugins.teams.checkout]\nkey = \"{}\"\n", keys.pk.to_base64());
    let host = Host::without_brokers("signed", &plugins, &teams);
    let refused = host.log().until_said("plugin refused");
    assert!(refused.field("file").ends_with("0.wasm"), "{}", refused.text);
    assert!(refused.field("reason").contains("the component is not signed"), "{}", refused.text);
    let active = host.log().until_said("version active");
    assert_eq!((active.field("projection"), active.field("version")), ("sound", "1.0.0"));
}
