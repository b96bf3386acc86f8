//! What requests may ask: facets, and conditions over several parameters.

use super::*;
use crate::config::filters::FacetMatching;
use crate::postgis::FacetMatch;

/// A layer with facets, and a parameter of the type `text` by whose value others may choose.
const GIVEN: &str = "[[layer]]\nname=\"a\"\ntable=\"t\"\nfacets=[\"kind\", \"n\"]\n[[layer]]\nname=\"b\"\ntable=\"t\"
[[tileset.parameter]]\nname=\"combine\"\ntype=\"text\"\nallowed=[\"AND\", \"OR\"]\n";

#[test]
fn a_facet_that_does_not_fit_is_answered_with_what_to_write() {
    for (parameter, message) in [
        (
            "type=\"text\"\nfacet={ a = \"kin\" }",
            "facet names \"kin\", which is no facet of the layer \"a\": write facets = [\"kind\", \"n\", \"kin\"] into the [[layer]]",
        ),
        (
            "type=\"text\"\nfacet={ b = \"kind\" }",
            "facet names \"kind\", which is no facet of the layer \"b\": write facets = [\"kind\"] into the [[layer]]",
        ),
        ("type=\"text\"\nfacet={ c = \"kind\" }", "facet names the layer \"c\", which is not there"),
        (
            "type=\"text\"\nfacet={ a = \"kind\" }\nwhere={ a = \"kind = !p!\" }",
            "facet stands beside where for the layer \"a\": write one of them",
        ),
        ("type=\"number\"\nfacet={ a = \"n\" }", "facet has no meaning for the type number: leave it out"),
        (
            "type=\"text\"\nfacet={ a = \"kind\" }\ntracked=true",
            "tracked is about the SQL of where, which is not there: leave it out",
        ),
        ("type=\"box\"\nfacet={ a = \"n\" }", "facet has no meaning for the type box: leave it out"),
        (
            "type=\"text\"\nfacet={ a = \"kind\" }\nmap={ table = \"t\", from = \"a\", to = \"b\" }",
            "map needs a list, because a value may stand for several: write type = \"text[]\"",
        ),
        (
            "type=\"boolean\"\nfacet={ a = \"kind\" }\nmap={ table = \"t\", from = \"a\", to = \"b\" }",
            "map has no meaning for the type boolean: leave it out",
        ),
        ("type=\"text\"\nmatch=\"all\"", "match is for a parameter with facet: leave it out"),
        (
            "type=\"integer\"\nfacet={ a = \"n\" }\nmatch=\"range\"",
            "match is \"range\", for which values are written as 10..20: write type = \"range\"",
        ),
        ("type=\"range\"\nfacet={ a = \"n\" }\nmatch=\"any\"", "match is \"any\", and the type is range: leave it out"),
        (
            "type=\"text[]\"\nfacet={ a = \"kind\" }\nmatch={ from = \"combin\", values = { AND = \"all\" } }",
            "match names the parameter \"combin\", which is not there",
        ),
        (
            "type=\"text[]\"\nfacet={ a = \"kind\" }\nmatch={ from = \"p\", values = { AND = \"all\" } }",
            "match names the parameter \"p\", which must be of type text",
        ),
        (
            "type=\"text[]\"\nfacet={ a = \"kind\" }\nmatch={ from = \"combine\", values = { AND = \"all\" } }",
            "match must have an entry for each allowed value of the parameter \"combine\", and no other: write allowed = [\"AND\"] into that",
        ),
        (
            "type=\"text[]\"\nfacet={ a = \"kind\" }\nmatch={ from = \"combine\", values = { AND = \"range\", OR = \"any\" } }",
            "match has \"range\": write \"any\" or \"all\" for each value",
        ),
    ] {
        let text = format!("{GIVEN}[[tileset.parameter]]\nname=\"p\"\n{parameter}");
        answered(&text, "tileset.parameter", &format!("[p].{message}"));
    }
    let layer = "[[layer]]\nname=\"a\"\n";
    answered(
        &format!("{layer}table=\"t\"\nfacets=[\"n\", \"n\"]"),
        "layer[a].facets",
        "names the column \"n\" twice: name each column once",
    );
    answered(
        &format!("{layer}sql=\"SELECT 1\"\nkey=[\"id\"]\nfacets=[\"n\"]"),
        "layer[a].facets",
        "names columns of a table, and the layer has none: leave it out, and give each [[tileset.parameter]] a where; or draw the layer from a view with table",
    );
    answered(
        &format!("{layer}function=\"f\"\nfacets=[\"n\"]"),
        "layer[a].facets",
        "stands beside function, which gives whole tiles: it has no meaning there; leave it out",
    );
}

#[test]
fn how_values_choose_may_depend_on_another_parameter() {
    let matching = |parameter: &str| {
        let text = format!("{GIVEN}[[tileset.parameter]]\nname=\"p\"\nfacet={{ a = \"kind\" }}\n{parameter}");
        resolve(&text).unwrap().tileset.filters.parameters.pop().unwrap().matching
    };
    assert_eq!(matching("type=\"text\""), FacetMatching::Always(FacetMatch::Any));
    assert_eq!(matching("type=\"text\"\nmatch=\"all\""), FacetMatching::Always(FacetMatch::All));
    assert_eq!(matching("type=\"range\""), FacetMatching::Always(FacetMatch::Range));
    let values = [("AND".to_owned(), FacetMatch::All), ("OR".to_owned(), FacetMatch::Any)].into();
    let from = "type=\"text[]\"\nmatch={ from = \"combine\", values = { AND = \"all\", OR = \"any\" } }";
    assert_eq!(matching(from), FacetMatching::From { parameter: "combine".to_owned(), values });
}

#[test]
fn a_condition_is_another_one_for_the_change_log_once_it_is_said_to_be_tracked() {
    let filters = |tracked: &str| {
        let own =
            format!("[[tileset.parameter]]\nname=\"p\"\ntype=\"text\"\nwhere={{ a = \"kind = !p!\" }}\n{tracked}");
        let condition = format!("[[tileset.condition]]\nuses=[\"p\"]\nwhere={{ b = \"n = !p!\" }}\n{tracked}");
        resolve(&format!("{GIVEN}{own}{condition}")).unwrap().tileset.filters
    };
    let (plain, tracked) = (filters(""), filters("tracked=true\n"));
    for layer in ["a", "b"] {
        let [plain, tracked] = [&plain, &tracked].map(|filters| filters.written(layer));
        assert_eq!(tracked, [format!("/* tracked */ {}", plain[0])]);
    }
}

#[test]
fn a_condition_over_several_parameters_that_does_not_fit_is_answered_with_what_to_write() {
    let parameter = |name: &str, kind: &str| format!("[[tileset.parameter]]\nname=\"{name}\"\ntype=\"{kind}\"\n");
    let given = format!("{GIVEN}{}{}", parameter("q", "text"), parameter("ids", "integer[]"));
    for (condition, message) in [
        ("uses=[]\nwhere={ a = \"n = 1\" }", "[].uses is empty: name the parameters that it reads"),
        ("uses=[\"q\", \"q\"]\nwhere={ a = \"n = !q!\" }", "[q, q].uses names \"q\" twice: name each parameter once"),
        ("uses=[\"x\"]\nwhere={ a = \"n = !x!\" }", "[x].uses names the parameter \"x\", which is not there"),
        ("uses=[\"q\"]\nwhere={}", "[q].where is empty: write a condition for a layer"),
        ("uses=[\"q\"]\nwhere={ c = \"n = !q!\" }", "[q].where names the layer \"c\", which is not there"),
        (
            "uses=[\"q\"]\nwhere={ a = \"n = !q! AND n = ANY(!ids!)\" }",
            "[q].where has !ids!, which uses does not name: write \"ids\" into it",
        ),
        (
            "uses=[\"q\", \"ids\"]\nwhere={ a = \"n = !q!\" }",
            "[q, ids].where does not contain !ids!, which stands for the values",
        ),
        (
            "uses=[\"q\"]\nwhere={ a = \"n = !q!\" }\ndefault={ ids = [1] }",
            "[q].default names \"ids\", which uses does not name",
        ),
        (
            "uses=[\"ids\"]\nwhere={ a = \"n = ANY(!ids!)\" }\ndefault={ ids = [1, \"x\"] }",
            "[ids].default ids: a value is no whole number of 64 bits",
        ),
        (
            "uses=[\"ids\"]\nwhere={ a = \"n = ANY(!ids!)\" }\ndefault={ ids = [] }",
            "[ids].default ids: there are 0 different values: write 1 to 20",
        ),
        (
            "uses=[\"q\"]\nwhere={ a = \"n = !q!\" }\ndefault={ q = \"x\" }
            [[tileset.condition]]\nuses=[\"q\"]\nwhere={ a = \"n = !q!\" }\ndefault={ q = \"y\" }",
            "gives q two defaults: write the same one each time",
        ),
    ] {
        answered(&format!("{given}[[tileset.condition]]\n{condition}"), "tileset.condition", message);
    }
}
