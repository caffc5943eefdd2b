//! Which package may depend on which.
//!
//! Development dependencies do not count: nothing of them is in what is shipped.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::violation::Violation;
use crate::cargo::Cargo;

/// What a package of the product may use of this workspace. A guest may use the SDK only. The tools (tests,
/// bench, demo, fuzz, xtask) may use anything.
const MAY_USE: [(&str, &str); 9] = [
    ("projector-model", ""),
    ("projector-core", "projector-model"),
    ("projector-config", "projector-model projector-core"),
    ("projector-sandbox", "projector-model projector-core projector-config"),
    ("projector-kafka", "projector-model projector-core projector-config"),
    ("projector-store", "projector-model projector-core projector-config"),
    (
        "projector",
        "projector-model projector-core projector-config projector-sandbox projector-kafka projector-store",
    ),
    ("projector-sdk-macros", ""),
    ("projector-sdk", "projector-model projector-sdk-macros"),
];

/// The heavy native stacks, and the only packages that may depend on each: the one that it belongs to, and
/// tools.
const HEAVY: [(&str, &str); 3] = [
    ("rdkafka", "projector-kafka projector-workload projector-test-servers projector-bench projector-demo"),
    ("wasmtime", "projector-sandbox"),
    ("sqlx", "projector-store projector-bench projector-demo"),
];

/// Packages of plain data and pure decisions, and those that run inside a guest: no runtime, no input, no
/// output.
const WITHOUT_TOKIO: &str = "projector-model projector-core projector-sdk projector-sdk-macros";

pub(crate) fn check(cargo: &Cargo) -> Result<Vec<Violation>> {
    let packages: Vec<_> =
        cargo.packages().map(|package| Package::read(cargo, package)).collect::<Result<_>>()?;
    Ok(violations(&packages))
}

fn violations(workspace: &[Package]) -> Vec<Violation> {
    workspace.iter().flat_map(|package| package.violations(workspace)).collect()
}

/// A package of the workspace.
struct Package {
    name: String,
    /// Its Cargo.toml, relative to the workspace.
    manifest: PathBuf,
    text: String,
    is_guest: bool,
    /// The packages that it needs to be built and run, those of this workspace and others.
    dependencies: Vec<String>,
}

impl Package {
    /// `package` is what `cargo metadata` says about it.
    fn read(cargo: &Cargo, package: &Value) -> Result<Package> {
        let text_of = |value: &Value| value.as_str().map(str::to_owned).context("cargo metadata: no text");
        let name = text_of(&package["name"])?;
        let manifest = PathBuf::from(text_of(&package["manifest_path"])?);
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let dependencies = dependencies.filter(|dependency| dependency["kind"] != "dev");
        Ok(Package {
            text: fs::read_to_string(&manifest)?,
            is_guest: cargo.guests().iter().any(|(guest, _)| *guest == name),
            dependencies: dependencies
                .map(|dependency| text_of(&dependency["name"]))
                .collect::<Result<_>>()?,
            manifest: manifest.strip_prefix(cargo.root())?.to_owned(),
            name,
        })
    }

    fn violations(&self, workspace: &[Package]) -> Vec<Violation> {
        let mut found = Vec::new();
        if self.may_use().is_none() && self.manifest.starts_with("host") {
            let remedy = "add a row to MAY_USE in xtask/src/lint/crates.rs";
            found.push(Violation::new(&self.manifest, 1, format!("{} has no row", self.name), remedy));
        }
        for dependency in &self.dependencies {
            let is_here = workspace.iter().any(|package| package.name == *dependency);
            if let Some(reason) = self.refusal(dependency, is_here) {
                let what = format!("{} depends on {dependency}", self.name);
                found.push(Violation::new(&self.manifest, self.line_of(dependency), what, reason));
            }
        }
        found
    }

    fn may_use(&self) -> Option<&'static str> {
        let row = MAY_USE.iter().find(|(package, _)| *package == self.name);
        row.map(|(_, may_use)| *may_use).or(self.is_guest.then_some("projector-sdk"))
    }

    /// Why this package may not depend on that one, which `is_here` in the workspace.
    fn refusal(&self, dependency: &str, is_here: bool) -> Option<String> {
        if let Some(may_use) = self.may_use().filter(|may_use| is_here && !lists(may_use, dependency)) {
            return Some(format!(
                "it may use [{may_use}]; move what is needed to a package that both may use"
            ));
        }
        if dependency == "tokio" && lists(WITHOUT_TOKIO, &self.name) {
            return Some(
                "it holds plain data and pure decisions; move what waits to a package above it".to_owned(),
            );
        }
        // `sqlx-core` belongs to sqlx.
        let (_, only) = HEAVY.iter().find(|(heavy, _)| dependency.split('-').next() == Some(heavy))?;
        (!lists(only, &self.name)).then(|| format!("only [{only}] may; use what one of these offers"))
    }

    fn line_of(&self, dependency: &str) -> usize {
        let is_it =
            |line: &str| line.strip_prefix(dependency).is_some_and(|rest| rest.starts_with([' ', '.', '=']));
        self.text.lines().position(is_it).map_or(1, |at| at + 1)
    }
}

fn lists(names: &str, name: &str) -> bool {
    names.split(' ').any(|one| one == name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            manifest: Path::new("packages").join(name).join("Cargo.toml"),
            text: format!("[dependencies]\n{} = \"1\"\n", dependencies.join(" = \"1\"\n")),
            is_guest: false,
            dependencies: dependencies.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn shown(packages: &[Package]) -> Vec<String> {
        violations(packages).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn the_table_allows_what_is_planned() {
        let packages: Vec<_> = MAY_USE
            .iter()
            .map(|(name, may_use)| package(name, &may_use.split_whitespace().collect::<Vec<_>>()))
            .collect();
        assert!(shown(&packages).is_empty());
    }

    #[test]
    fn stores_do_not_use_the_sandbox() {
        let store = package("projector-store", &["projector-core", "projector-sandbox"]);
        let found = shown(&[store, package("projector-core", &[]), package("projector-sandbox", &[])]);
        assert_eq!(found.len(), 1, "{found:?}");
        let place = "packages/projector-store/Cargo.toml:3: projector-store depends on projector-sandbox: ";
        assert!(found[0].starts_with(place), "{found:?}");
    }

    #[test]
    fn each_heavy_stack_has_one_home() {
        let found = shown(&[package("projector-store", &["sqlx", "rdkafka"])]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("projector-store depends on rdkafka: only [projector-kafka "), "{found:?}");
        assert_eq!(
            shown(&[package("projector-core", &["sqlx-core", "rdkafka", "wasmtime", "tokio"])]).len(),
            4
        );
    }

    #[test]
    fn a_guest_uses_the_sdk_only() {
        let guest = Package { is_guest: true, ..package("my-plugin", &["projector-sdk", "projector-model"]) };
        let found = shown(&[guest, package("projector-sdk", &[]), package("projector-model", &[])]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("my-plugin depends on projector-model"), "{found:?}");
    }

    #[test]
    fn a_package_of_the_host_needs_a_row() {
        let new =
            Package { manifest: PathBuf::from("host/parser/Cargo.toml"), ..package("projector-parser", &[]) };
        assert_eq!(shown(&[new]).len(), 1);
    }
}
