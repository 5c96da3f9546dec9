//! Results as a plot: ratios to the direct wire, the Linux bridge, Docker, and vswitch without
//! guards.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    results::{Figure, Results, variant},
    topology::Variant,
};

const WIDTH: u32 = 1200;
const PANEL_HEIGHT: u32 = 390;

/// Writes `ratios.svg` into `directory`. Does nothing if there are no ratios.
pub fn write(directory: &Path, results: &Results) -> Result<()> {
    let baselines: Vec<Variant> = [Variant::Direct, Variant::Bridge, Variant::Docker, Variant::VswitchOpen]
        .into_iter()
        .filter(|baseline| !groups(results, *baseline).is_empty())
        .collect();
    if baselines.is_empty() {
        return Ok(());
    }
    let path = directory.join("ratios.svg");
    let root = SVGBackend::new(&path, (WIDTH, PANEL_HEIGHT * baselines.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, baseline) in root.split_evenly((baselines.len(), 1)).iter().zip(baselines) {
        panel(area, baseline, &groups(results, baseline))
            .map_err(|error| anyhow!("drawing {}: {error}", path.display()))?;
    }
    root.present()?;
    Ok(())
}

/// The bars of one figure.
struct Group<'a> {
    figure: &'a Figure,
    bars: Vec<(Variant, f64)>,
}

/// Returns the ratios of all figures, inverted if necessary, so that more is always better.
fn groups(results: &Results, baseline: Variant) -> Vec<Group<'_>> {
    let groups = results.figures.iter().map(|figure| Group { figure, bars: bars(figure, baseline) });
    // A baseline without other rows is left out.
    groups.filter(|group| group.bars.len() > 1).collect()
}

fn bars(figure: &Figure, baseline: Variant) -> Vec<(Variant, f64)> {
    let bar = |key| {
        let ratio = figure.ratio(key, baseline.key())?;
        Some((variant(key)?, if figure.kind.more_is_better { ratio } else { ratio.recip() }))
    };
    figure.rows.iter().filter_map(|(key, _)| bar(key)).collect()
}

fn panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    baseline: Variant,
    groups: &[Group<'_>],
) -> Result<(), Box<dyn std::error::Error + 'a>> {
    let top = groups.iter().flat_map(|group| &group.bars).map(|(_, ratio)| *ratio).fold(1.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("Times the {} (more is better; latency and attach time inverted)", baseline.label()),
            ("sans-serif", 20),
        )
        .margin(12)
        .margin_right(190)
        .x_label_area_size(46)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..groups.len() as f64, 0.0..top)?;
    chart.configure_mesh().disable_x_mesh().disable_x_axis().y_labels(6).light_line_style(WHITE).draw()?;

    let below = TextStyle::from(("sans-serif", 14).into_font()).pos(Pos::new(HPos::Center, VPos::Top));
    let above = TextStyle::from(("sans-serif", 12).into_font()).pos(Pos::new(HPos::Center, VPos::Bottom));
    let mut shown: Vec<Variant> = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        let width = 0.84 / group.bars.len() as f64;
        for (position, (variant, ratio)) in group.bars.iter().enumerate() {
            let left = number as f64 + 0.08 + width * position as f64;
            let bar = Rectangle::new([(left, 0.0), (left + width * 0.92, *ratio)], color(*variant).filled());
            chart.draw_series([bar])?;
            chart.draw_series([Text::new(format!("{ratio:.2}"), (left + width * 0.46, *ratio), &above)])?;
            if !shown.contains(variant) {
                shown.push(*variant);
            }
        }
        let (x, y) = chart.backend_coord(&(number as f64 + 0.5, 0.0));
        let (_, origin) = area.get_base_pixel();
        for (line, text) in (0..).zip(group.figure.kind.title.splitn(2, ", ")) {
            area.draw_text(text, &below, (x, y - origin + 8 + 17 * line))?;
        }
    }
    chart.draw_series([PathElement::new([(0.0, 1.0), (groups.len() as f64, 1.0)], BLACK.mix(0.6))])?;
    legend(area, &mut shown)
}

fn legend<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    shown: &mut [Variant],
) -> Result<(), Box<dyn std::error::Error + 'a>> {
    shown.sort_unstable();
    let text = TextStyle::from(("sans-serif", 14).into_font()).pos(Pos::new(HPos::Left, VPos::Center));
    let left = WIDTH as i32 - 180;
    for (line, variant) in shown.iter().enumerate() {
        let y = 60 + 22 * line as i32;
        area.draw(&Rectangle::new([(left, y - 6), (left + 12, y + 6)], color(*variant).filled()))?;
        area.draw_text(variant.label(), &text, (left + 20, y))?;
    }
    Ok(())
}

/// Returns the color of a variant, from the palette of Okabe and Ito, which color-blind readers can
/// distinguish. vswitch has its two strong colors.
fn color(variant: Variant) -> RGBColor {
    match variant {
        Variant::Direct => RGBColor(153, 153, 153),
        Variant::Bridge => RGBColor(230, 159, 0),
        Variant::BridgeAlone => RGBColor(240, 200, 110),
        Variant::Macvlan | Variant::MacvlanPlain => RGBColor(86, 180, 233),
        Variant::Docker => RGBColor(204, 121, 167),
        Variant::Vswitch | Variant::UplinkTcx | Variant::MacvlanTcx => RGBColor(0, 158, 115),
        Variant::VswitchOpen | Variant::VswitchCrowd | Variant::MacvlanUntagged => RGBColor(0, 90, 66),
        Variant::MacvlanVlan => RGBColor(240, 228, 66),
        Variant::IpvlanL2 => RGBColor(213, 94, 0),
        Variant::VxlanBridge => RGBColor(230, 159, 0),
        Variant::VxlanBridgeAlone => RGBColor(240, 200, 110),
        Variant::Overlay => RGBColor(0, 158, 115),
        Variant::VswitchXdp | Variant::UplinkXdp | Variant::MacvlanXdp => RGBColor(0, 114, 178),
    }
}
