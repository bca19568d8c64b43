//! A mixture of experts beside the dense model of equal active size: final numbers, both losses, how even the load is, and the
//! load of every expert over time.

use super::heat;
use super::html::{Cell, Html, details, left, right, table, tag};
use crate::experts::{Look, Trained, dead, entropy, max_over_mean, min_over_mean, trained};
use crate::folder::RunFolder;
use crate::term::thousands;
use llm_run::chart::{Chart, Series};

/// Layers that get a curve each; with more, the curves are worst, mean and best.
const MOST_CURVES: usize = 5;

/// The section; empty when no stage trained a mixture.
pub fn section(run: &RunFolder) -> Html {
    let models = trained(run);
    let mixtures: Vec<&Trained<'_>> = models.iter().filter(|m| !m.looks.is_empty()).collect();
    if mixtures.is_empty() {
        return Html::default();
    }
    let mut page = Html::default();
    page.push(tag(
        "p class=soft",
        "In every layer of the mixture a router sends each token to a few of the experts. The dense model spends as many parameters on a token: \
         active are all that a token meets, embeddings, attention, norms and router included, and of the experts only its own.",
    ));
    page.push(tag("div class=card", numbers(run, &models)));
    page.push(tag("div class=grid2", losses(&models)));
    for mixture in mixtures {
        page.push(tag("h3", format!("Load of the experts · {}", mixture.stage.id)));
        page.push(tag(
            "p class=\"soft small\"",
            "The load of an expert is the tokens it got, over the mean of its layer: 1 is balanced. Steps have few texts, so a step is less even \
             than many steps together.",
        ));
        page.push(tag("div class=grid2", curves(&mixture.looks)));
        page.push(heat::legend());
        let layers = mixture.looks[0].load.len();
        page.push(tag("div class=grid2", (0..layers).map(|layer| heat::map(&mixture.looks, layer)).collect::<Vec<_>>()));
        if let Some(end) = mixture.end() {
            page.push(details("Load at the end, by layer and expert", tag("div class=card", loads(&end, mixture.heldout.as_ref()))));
        }
    }
    page
}

fn numbers(run: &RunFolder, models: &[Trained<'_>]) -> Html {
    let mut head = vec![""];
    head.extend(models.iter().map(|m| m.stage.id.as_str()));
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut row = |name: &str, value: &dyn Fn(&Trained<'_>) -> Option<String>| {
        let values: Vec<Option<String>> = models.iter().map(value).collect();
        if values.iter().any(Option::is_some) {
            rows.push(std::iter::once(left(name)).chain(values.into_iter().map(|v| right(v.unwrap_or_else(|| "-".into())))).collect());
        }
    };
    let whole = |value: Option<f64>| value.map(|v| thousands(v.round().max(0.0) as u64));
    let nats = |value: Option<f64>| value.map(|v| format!("{v:.4}"));
    row("Parameters", &|m| whole(m.summary("parameters")));
    row("of these active for a token", &|m| whole(m.summary("active_parameters")));
    row("Experts per layer", &|m| m.experts().map(|n| n.to_string()));
    row("Tokens", &|m| whole(m.last("tokens")));
    row("Tokens per second", &|m| whole(m.summary("tokens_per_second")));
    row("Training loss at the end, nats per token", &|m| nats(m.final_cross_entropy()));
    row("Held-out loss, nats per token", &|m| nats(m.last("val_loss")));
    row("Bits per byte of held-out documents", &|m| nats(m.bits_per_byte(run)));
    row("Max/mean load at the end", &|m| m.end().map(|load| format!("{:.2}", max_over_mean(&load))));
    row("Min/mean load at the end", &|m| m.end().map(|load| format!("{:.2}", min_over_mean(&load))));
    row("Max/mean load, held out", &|m| m.heldout.as_ref().map(|load| format!("{:.2}", max_over_mean(load))));
    row("Dead experts at the end", &|m| m.end().map(|load| dead(&load).to_string()));
    row("Entropy of the load, least even layer", &|m| {
        m.end().map(|load| format!("{:.3}", load.iter().map(|layer| entropy(layer)).fold(1.0, f64::min)))
    });
    table(&head, rows)
}

fn chart(title: &str, y: &str, series: Vec<Series>) -> Chart {
    Chart { title: title.into(), x: "step".into(), y: y.into(), series, ..Chart::default() }
}

/// Both losses: training and held out.
fn losses(models: &[Trained<'_>]) -> Vec<Html> {
    let series = |colour: usize, m: &Trained<'_>, points: Vec<(f64, f64)>, smooth: bool| Series {
        name: m.stage.id.clone(),
        colour: colour % 5,
        points,
        smooth,
        dots: !smooth,
        ..Series::default()
    };
    let training = models.iter().enumerate().map(|(i, m)| series(i, m, m.cross_entropy(), true)).collect();
    let validation = |m: &Trained<'_>| {
        let records = m.stage.metrics.iter();
        records.filter_map(|r| Some((r.get("step")?.as_f64()?, r.get("val_loss")?.as_f64()?))).collect::<Vec<_>>()
    };
    let heldout = models.iter().enumerate().map(|(i, m)| series(i, m, validation(m), false)).collect();
    let charts = [chart("Training loss without balancing losses", "nats per token", training), chart("Held-out loss", "nats per token", heldout)];
    charts.into_iter().map(Chart::html).filter(|html| !html.is_empty()).collect()
}

/// Curves of a number per layer.
fn per_layer(looks: &[Look], value: &dyn Fn(&Look, usize) -> Option<f64>, worst: fn(f64, f64) -> f64) -> Vec<Series> {
    let layers = looks[0].load.len();
    let curve = |name: String, colour: usize, points: Vec<(f64, f64)>| Series { name, colour, points, smooth: true, ..Series::default() };
    let of = |layer: usize| looks.iter().filter_map(|look| Some((look.step, value(look, layer)?))).collect::<Vec<_>>();
    if layers <= MOST_CURVES {
        return (0..layers).map(|layer| curve(format!("layer {layer}"), layer, of(layer))).collect();
    }
    let all = |look: &Look| (0..layers).map(|layer| value(look, layer)).collect::<Option<Vec<f64>>>();
    let summed = |join: &dyn Fn(Vec<f64>) -> f64| looks.iter().filter_map(|look| Some((look.step, join(all(look)?)))).collect::<Vec<_>>();
    let mean = summed(&|values| values.iter().sum::<f64>() / values.len() as f64);
    let worst = summed(&|values| values.into_iter().reduce(worst).unwrap_or(f64::NAN));
    vec![curve("least even layer".into(), 1, worst), curve("mean of the layers".into(), 0, mean)]
}

fn curves(looks: &[Look]) -> Vec<Html> {
    let most = |look: &Look, layer: usize| look.load[layer].iter().copied().reduce(f64::max);
    let dead_experts = Series {
        name: "dead experts".into(),
        colour: 3,
        points: looks.iter().map(|look| (look.step, dead(&look.load) as f64)).collect(),
        ..Series::default()
    };
    let charts = [
        Chart { line: Some(("balanced".into(), 1.0)), ..chart("Max/mean load of a step", "times the mean", per_layer(looks, &most, f64::max)) },
        chart("Entropy of the load of a step", "1 is balanced", per_layer(looks, &|look, layer| Some(entropy(&look.load[layer])), f64::min)),
        Chart { zero: true, ..chart("Experts without a token in a step", "of all layers", vec![dead_experts]) },
        chart(
            "Entropy of the router",
            "1 undecided, 0 sure of a token",
            per_layer(looks, &|look, layer| look.router_entropy.get(layer).copied(), f64::max),
        ),
    ];
    charts.into_iter().map(Chart::html).filter(|html| !html.is_empty()).collect()
}

fn loads(end: &[Vec<f64>], heldout: Option<&Vec<Vec<f64>>>) -> Html {
    let names: Vec<String> = (0..end[0].len()).map(|expert| expert.to_string()).collect();
    let mut head = vec!["layer", "expert"];
    head.extend(names.iter().map(String::as_str));
    let kinds = [("training", Some(end)), ("held out", heldout.map(Vec::as_slice))];
    let mut rows = Vec::new();
    for layer in 0..end.len() {
        for (kind, load) in &kinds {
            if let Some(load) = load.and_then(|load| load.get(layer)) {
                let cells = load.iter().map(|x| right(format!("{x:.2}")));
                rows.push([left(layer.to_string()), left(*kind)].into_iter().chain(cells).collect());
            }
        }
    }
    table(&head, rows)
}
