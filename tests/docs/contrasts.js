// The contrast of each element that holds text itself, against what is painted behind it.
() => {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map((c) => {
      const s = c / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a = 1] = channels(getComputedStyle(at).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own.length || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    if (!element.getClientRects().length || element.closest("svg, .visually-hidden, noscript")) continue;
    const fore = luminance(channels(getComputedStyle(element).color));
    const back = luminance(behind(element));
    const ratio = (Math.max(fore, back) + 0.05) / (Math.min(fore, back) + 0.05);
    found.push({ ratio, text: own[0].textContent.trim().slice(0, 40), of: element.tagName + "." + element.className });
  }
  return found;
}
