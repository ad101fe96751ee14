// Draws the figures whose JSON lies beside their places, in the palette the reader's system asks for.
(() => {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = (place) => place.clientWidth < 480;

  function rgb(colour) {
    return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)).join(",");
  }

  function inPalette(text) {
    if (!dark.matches) return text;
    return Object.entries(DARK_TWINS).reduce(
      (out, [light, twin]) => out.replaceAll(light, twin).replaceAll(`rgba(${rgb(light)},`, `rgba(${rgb(twin)},`),
      text,
    );
  }

  function fitted(spec, place) {
    const { layout } = spec;
    layout.font.family = getComputedStyle(document.body).fontFamily;
    if (!narrow(place)) return spec;
    for (const name of ["xaxis", "yaxis", "yaxis2"]) {
      const axis = layout[name];
      if (!axis) continue;
      axis.tickfont = { ...axis.tickfont, size: 10.5 };
      axis.title = { ...axis.title, font: { ...(axis.title || {}).font, size: 11 } };
      if (!axis.tickvals && !(name === "yaxis" && spec.data[0].orientation === "h")) axis.nticks = 6;
    }
    layout.margin = { ...layout.margin, l: 4, r: 18 };
    return spec;
  }

  function draw(source) {
    const place = document.getElementById(source.dataset.for);
    const spec = fitted(JSON.parse(inPalette(source.textContent)), place);
    const hidden = new Set(
      [...document.querySelectorAll(`button[data-plot="${place.id}"][aria-pressed="false"]`)].map((b) => b.dataset.group),
    );
    for (const trace of spec.data) if (hidden.has(trace.legendgroup)) trace.visible = false;
    return Plotly.react(place, spec.data, spec.layout, { displayModeBar: false, responsive: true });
  }

  const marks = {
    area: (c) => `<rect x="4" y="1" width="14" height="10" rx="2" fill="${c}"/>`,
    hatch: (c) => `<rect x="4" y="1" width="14" height="10" rx="2" fill="${c}"/><path d="M6 11l5-10M12 11l5-10" stroke="${getComputedStyle(document.documentElement).getPropertyValue("--panel")}" stroke-width="1.5"/>`,
    line: (c) => `<path d="M1 6h20" stroke="${c}" stroke-width="3"/>`,
    dash: (c) => `<path d="M1 6h20" stroke="${c}" stroke-width="2.5" stroke-dasharray="6 3"/>`,
    dot: (c) => `<path d="M1 6h20" stroke="${c}" stroke-width="2.5" stroke-dasharray="2 3"/>`,
    dashdot: (c) => `<path d="M1 6h20" stroke="${c}" stroke-width="2.5" stroke-dasharray="7 3 2 3"/>`,
    circle: (c) => `<circle cx="11" cy="6" r="5" fill="${c}"/>`,
    ring: (c) => `<circle cx="11" cy="6" r="4" fill="none" stroke="${c}" stroke-width="2"/>`,
    diamond: (c) => `<path d="M11 0l6 6-6 6-6-6z" fill="${c}"/>`,
    square: (c) => `<rect x="6" y="1" width="10" height="10" fill="${c}"/>`,
    "triangle-up": (c) => `<path d="M11 1l6 10H5z" fill="${c}"/>`,
  };

  function paintSwatches() {
    for (const swatch of document.querySelectorAll(".swatch")) {
      swatch.innerHTML = marks[swatch.dataset.shape](inPalette(swatch.dataset.colour));
    }
  }

  async function drawAll() {
    paintSwatches();
    for (const source of document.querySelectorAll("script[data-for]")) await draw(source);
    document.documentElement.dataset.drawn = "yes";
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-plot]");
    if (!button) return;
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
    draw(document.querySelector(`script[data-for="${button.dataset.plot}"]`));
  });
  dark.addEventListener("change", drawAll);
  drawAll();
})();
