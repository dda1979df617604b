//! Line charts as inline SVG. Colours come from the page's style sheet; each series also has its own
//! dash and marker, so that nothing depends on colour. A point that is not finite leaves a gap.
//!
//! Refuses to draw nothing: a chart without a finite point says "no data".
use std::fmt::Write as _;

const HEIGHT: f64 = 290.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 244.0;
/// Above this many points, a curve has no markers; above [`HOVERED`], no tooltips either.
const MARKED: usize = 40;
const HOVERED: usize = 400;

/// A chart with one y axis.
pub(super) struct Chart<'a> {
    /// In units of which the text is 12 high: what the page will give it, in pixels.
    pub(super) width: f64,
    /// Read aloud by screen readers.
    pub(super) title: &'a str,
    pub(super) x: Axis<'a>,
    pub(super) y: Axis<'a>,
    /// At most two; the second is drawn dashed with square markers.
    pub(super) series: Vec<Series<'a>>,
    pub(super) mark: Option<Mark>,
}

/// An axis: its name, and its range where the data should not decide it.
#[derive(Clone, Copy)]
pub(super) struct Axis<'a> {
    pub(super) name: &'a str,
    pub(super) range: Option<(f64, f64)>,
    /// Ticks at whole numbers only.
    pub(super) whole: bool,
}

/// A named curve.
pub(super) struct Series<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// What the chart points at.
pub(super) enum Mark {
    /// A vertical line over the whole plot.
    Line { x: f64, text: String },
    /// A ring around one point.
    Point { x: f64, y: f64, text: String },
}

/// Draws the chart as an `<svg>` element.
pub(super) fn draw(chart: &Chart) -> String {
    let finite = || {
        chart.series.iter().flat_map(|s| &s.points).filter(|(x, y)| x.is_finite() && y.is_finite())
    };
    // Without a legend or a mark above the plot, their room is left out.
    let bare = chart.series.len() < 2 && chart.mark.is_none();
    let above = if bare { TOP - 16.0 } else { 0.0 };
    let mut svg = format!(
        r#"<svg class="chart" viewBox="0 {above} {} {}" role="img" aria-label="{}">"#,
        chart.width,
        HEIGHT - above,
        escape(chart.title)
    );
    let right = chart.width - 14.0;
    if finite().next().is_none() {
        let (x, y) = ((LEFT + right) / 2.0, (TOP + BOTTOM) / 2.0);
        let _ = write!(svg, r#"<text class="empty" x="{x}" y="{y}">no data</text></svg>"#);
        return svg;
    }
    let (x_ticks, x_range) = scale(chart.x, finite().map(|p| p.0), false);
    let (y_ticks, y_range) = scale(chart.y, finite().map(|p| p.1), true);
    let plot = Plot { x: x_range, y: y_range, right };
    axes(&mut svg, chart, &plot, &x_ticks, &y_ticks);
    if let Some(Mark::Line { x, text }) = &chart.mark {
        vertical(&mut svg, &plot, *x, text);
    }
    for (index, series) in chart.series.iter().enumerate() {
        curve(&mut svg, &plot, index, series, chart);
    }
    if let Some(Mark::Point { x, y, text }) = &chart.mark {
        ring(&mut svg, &plot, *x, *y, text);
    }
    legend(&mut svg, right, &chart.series);
    svg.push_str("</svg>");
    svg
}

/// Round numbers (1, 2 or 5 times a power of ten) from at most `low` to at least `high`.
pub(super) fn ticks(low: f64, high: f64, wanted: usize, whole: bool) -> Vec<f64> {
    if !low.is_finite() || !high.is_finite() || high < low {
        return vec![0.0, 1.0];
    }
    // A flat curve still gets an axis with some height.
    let span = if high > low { high - low } else { (high.abs() * 0.2).max(1e-6) };
    let (low, high) = if high > low { (low, high) } else { (low - span / 2.0, high + span / 2.0) };
    let raw = span / wanted.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let mut step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999);
    if whole {
        step = step.map(|s| s.max(1.0).round());
    }
    let step = step.filter(|s| s.is_normal()).unwrap_or(1.0);
    let first = (low / step + 1e-9).floor();
    let last = (high / step - 1e-9).ceil();
    let count = ((last - first).clamp(1.0, 50.0)) as usize;
    (0..=count).map(|i| (first + i as f64) * step).collect()
}

/// The texts of an axis: as many digits as the step between ticks needs, and powers of ten where
/// all are small or some huge.
pub(super) fn tick_texts(ticks: &[f64]) -> Vec<String> {
    let largest = ticks.iter().fold(0.0, |l: f64, t| l.max(t.abs()));
    let step = if ticks.len() > 1 { ticks[1] - ticks[0] } else { 1.0 };
    let digits = (-step.log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize;
    let text = |&tick: &f64| match tick {
        tick if tick.abs() < step / 2.0 => "0".to_owned(),
        tick if !(0.005..1e7).contains(&largest) => format!("{tick:.1e}").replace(".0e", "e"),
        tick => format!("{tick:.digits$}"),
    };
    ticks.iter().map(text).collect()
}

/// Text that is safe inside an element or a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

struct Plot {
    x: (f64, f64),
    y: (f64, f64),
    right: f64,
}

impl Plot {
    fn across(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (self.right - LEFT)
    }

    fn down(&self, y: f64) -> f64 {
        BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (BOTTOM - TOP)
    }
}

/// Ticks and range of an axis. A y axis ends at its outer ticks; an x axis ends at the data.
fn scale(axis: Axis, values: impl Iterator<Item = f64>, to_ticks: bool) -> (Vec<f64>, (f64, f64)) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let (low, high) = axis.range.unwrap_or((low, high));
    let mut ticks = ticks(low, high, if to_ticks { 5 } else { 10 }, axis.whole);
    let ends = (ticks[0], ticks[ticks.len() - 1]);
    if to_ticks || high <= low {
        return (ticks, ends);
    }
    ticks.retain(|t| *t >= low - 1e-9 && *t <= high + 1e-9);
    (ticks, (low, high))
}

fn axes(svg: &mut String, chart: &Chart, plot: &Plot, x_ticks: &[f64], y_ticks: &[f64]) {
    let right = plot.right;
    for (&tick, text) in y_ticks.iter().zip(tick_texts(y_ticks)) {
        let y = plot.down(tick);
        let _ = write!(
            svg,
            r#"<path class="grid" d="M{LEFT} {y:.1}H{right}"/><text class="y" x="{}" y="{:.1}">{text}</text>"#,
            LEFT - 8.0,
            y + 4.0
        );
    }
    for (&tick, text) in x_ticks.iter().zip(tick_texts(x_ticks)) {
        let x = plot.across(tick);
        let _ = write!(
            svg,
            r#"<path class="axis" d="M{x:.1} {BOTTOM}v5"/><text class="x" x="{x:.1}" y="{}">{text}</text>"#,
            BOTTOM + 19.0
        );
    }
    let _ = write!(
        svg,
        r#"<path class="axis" d="M{LEFT} {BOTTOM}H{right}"/><text class="x" x="{}" y="{}">{}</text><text x="{LEFT}" y="{}">{}</text>"#,
        (LEFT + right) / 2.0,
        HEIGHT - 6.0,
        escape(chart.x.name),
        TOP - 28.0,
        escape(chart.y.name)
    );
}

/// A dotted line with its text above the plot, where no curve runs.
fn vertical(svg: &mut String, plot: &Plot, x: f64, text: &str) {
    let x = plot.across(x);
    if !x.is_finite() {
        return;
    }
    let half = 3.5 * text.chars().count() as f64;
    let middle = x.min(plot.right - half).max(LEFT + half);
    let _ = write!(
        svg,
        r#"<path class="mark" d="M{x:.1} {}V{BOTTOM}"/><text class="note x" x="{middle:.1}" y="{}">{}</text>"#,
        TOP - 4.0,
        TOP - 9.0,
        escape(text)
    );
}

fn ring(svg: &mut String, plot: &Plot, x: f64, y: f64, text: &str) {
    let (x, y) = (plot.across(x), plot.down(y));
    if !x.is_finite() || !y.is_finite() {
        return;
    }
    let (shift, anchor) =
        if x > (LEFT + plot.right) / 2.0 { (-12.0, "end") } else { (12.0, "start") };
    let below = if y < (TOP + BOTTOM) / 2.0 { 22.0 } else { -14.0 };
    let text = escape(text);
    let _ = write!(
        svg,
        r#"<circle class="ring" cx="{x:.1}" cy="{y:.1}" r="7"><title>{text}</title></circle><text class="note" text-anchor="{anchor}" x="{:.1}" y="{:.1}">{text}</text>"#,
        x + shift,
        y + below
    );
}

fn curve(svg: &mut String, plot: &Plot, index: usize, series: &Series, chart: &Chart) {
    let mut path = String::new();
    let mut pen = 'M';
    for &(x, y) in &series.points {
        if x.is_finite() && y.is_finite() {
            let _ = write!(path, "{pen}{:.1} {:.1}", plot.across(x), plot.down(y));
            pen = 'L';
        } else {
            pen = 'M';
        }
    }
    let _ = write!(svg, r#"<path class="curve s{index}" d="{path}"/>"#);
    if series.points.len() > HOVERED {
        return;
    }
    let marked = series.points.len() <= MARKED;
    for &(x, y) in series.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
        let (across, down) = (plot.across(x), plot.down(y));
        let class = if marked { "dot" } else { "hover" };
        let shape = if index == 0 || !marked {
            format!(r#"circle cx="{across:.1}" cy="{down:.1}" r="3.5""#)
        } else {
            format!(
                r#"rect x="{:.1}" y="{:.1}" width="6.4" height="6.4""#,
                across - 3.2,
                down - 3.2
            )
        };
        let tag = if index == 0 || !marked { "circle" } else { "rect" };
        let _ = write!(
            svg,
            r#"<{shape} class="{class} s{index}"><title>{} {}: {} {}</title></{tag}>"#,
            escape(chart.x.name),
            short(x),
            escape(series.name),
            short(y)
        );
    }
}

fn legend(svg: &mut String, mut right: f64, series: &[Series]) {
    if series.len() < 2 {
        return;
    }
    for (index, one) in series.iter().enumerate().rev() {
        let y = TOP - 32.0;
        // An estimate of the text's width is enough for two short names.
        let start = right - 7.0 * one.name.chars().count() as f64;
        let _ = write!(
            svg,
            r#"<path class="curve s{index}" d="M{:.1} {y}h26"/><text class="legend" x="{start:.1}" y="{}">{}</text>"#,
            start - 32.0,
            y + 4.0,
            escape(one.name)
        );
        right = start - 48.0;
    }
}

/// A value in a tooltip: four significant digits, no trailing zeros.
fn short(value: f64) -> String {
    if value == 0.0 || value.fract() == 0.0 && value.abs() < 1e9 {
        return format!("{value:.0}");
    }
    if value.abs() < 1e-3 || value.abs() >= 1e7 {
        return format!("{value:.2e}");
    }
    let digits = (3.0 - value.abs().log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.digits$}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A value between 0 and 1, and its interval.
pub type Whisker = (f64, Option<(f64, f64)>);

/// Two values with their intervals, one above the other, on a scale from `start` to 1.
pub fn whiskers(values: [Option<Whisker>; 2], start: f64) -> String {
    let across = |v: f64| 6.0 + (v.clamp(start, 1.0) - start) / (1.0 - start) * 168.0;
    let mut svg = String::from(
        r#"<svg class="whiskers" viewBox="0 0 180 34" aria-hidden="true"><path class="grid" d="M6 33H174M6 29v4M90 29v4M174 29v4"/>"#,
    );
    for (index, (value, interval)) in
        values.into_iter().enumerate().filter_map(|(i, v)| Some((i, v?)))
    {
        let y = 8 + 13 * index;
        if let Some((low, high)) = interval.filter(|(l, h)| l.is_finite() && h.is_finite()) {
            let (from, to) = (across(low), across(high));
            let _ = write!(svg, r#"<path class="curve s{index}" d="M{from:.1} {y}H{to:.1}"/>"#);
        }
        if !value.is_finite() {
            continue;
        }
        let x = across(value);
        let _ = match index {
            0 => write!(svg, r#"<circle class="dot s0" cx="{x:.1}" cy="{y}" r="4.5"/>"#),
            _ => write!(
                svg,
                r#"<rect class="dot s1" x="{:.1}" y="{}" width="8" height="8"/>"#,
                x - 4.0,
                y - 4
            ),
        };
    }
    svg.push_str("</svg>");
    svg
}
