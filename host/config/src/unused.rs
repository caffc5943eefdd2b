//! Warnings for names in the configuration that have no effect. Most are typing mistakes. Some belong to a
//! plugin that will be deployed later, so they are not errors.

use std::collections::{BTreeMap, BTreeSet};

use projector_model::nearest;

use super::Config;
use super::text::Text;

/// The projections in stores and plugin files, with the logical topics that each reads. An empty set means
/// that the topics are unknown.
pub type Known = BTreeMap<String, BTreeSet<String>>;

impl Config {
    /// A warning for each name without effect, with the nearest name that exists.
    pub fn unused(&self, known: &Known) -> Vec<String> {
        let mut warnings = Vec::new();
        let nearest_of = |name: &str, names: &mut dyn Iterator<Item = &str>| {
            nearest(name, names).map_or(String::new(), |nearest| format!("; did you mean `{nearest}`?"))
        };
        for (name, projection) in &self.projections {
            let Some(topics) = known.get(name) else {
                let near = nearest_of(name, &mut known.keys().map(String::as_str));
                warnings.push(format!(
                    "[projections.{name}] has no effect: no plugin and no database has a projection of this name{near}"
                ));
                continue;
            };
            let is_unread = |topic: &&Text| !topics.is_empty() && !topics.contains(&***topic);
            for topic in projection.topics.iter().flatten().filter(is_unread) {
                let near = nearest_of(topic, &mut topics.iter().map(String::as_str));
                warnings.push(format!(
                    "projections.{name}.topics names `{}`, which the plugin does not read{near}",
                    &**topic
                ));
            }
        }
        let used: BTreeSet<&str> = self.projections.values().filter_map(|own| own.store.as_deref()).collect();
        for name in self.stores.keys().filter(|name| !used.contains(name.as_str())) {
            warnings.push(format!(
                "[stores.{name}] has no effect: no projection has `store = \"{name}\"` in its `[projections.NAME]`"
            ));
        }
        let declared: BTreeSet<&str> = known.values().flatten().map(String::as_str).collect();
        for topic in self.kafka.topics.keys().filter(|topic| !declared.contains(topic.as_str())) {
            let near = nearest_of(topic, &mut declared.iter().copied());
            warnings.push(format!("kafka.topics names `{topic}`, which no plugin declares{near}"));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unused_name_is_reported_with_the_nearest_name() {
        let config = Config::parse(
            "projector.toml",
            "[kafka]\nbrokers = \"b\"\n[plugins]\ndirectory = \"p\"\n[store]\nurl = \"sqlite://a.db\"\n\
             [stores.used]\nurl = \"sqlite://b.db\"\n[stores.spare]\nurl = \"sqlite://c.db\"\n\
             [projections.ordr-search]\nstore = \"used\"\n\
             [projections.sales]\ntopics = [\"order.v2\", \"custmer.v1\"]\n",
        )
        .expect("sound");
        let topics = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let known = Known::from([
            ("order-search".to_owned(), topics(&["order.v2"])),
            ("sales".to_owned(), topics(&["order.v2", "customer.v1"])),
        ]);
        let warnings = config.unused(&known);
        assert_eq!(warnings.len(), 3, "{warnings:#?}");
        assert!(warnings[0].starts_with("[projections.ordr-search]"), "{}", warnings[0]);
        assert!(warnings[0].ends_with("did you mean `order-search`?"), "{}", warnings[0]);
        assert!(
            warnings[1].contains("names `custmer.v1`")
                && warnings[1].ends_with("did you mean `customer.v1`?")
        );
        assert!(warnings[2].starts_with("[stores.spare] has no effect"), "{}", warnings[2]);
        assert!(config.unused(&Known::new()).len() >= 3);
    }
}
