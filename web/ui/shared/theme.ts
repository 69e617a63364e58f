// Light or dark: what the system says, or what was chosen here. Set on <html>, where the style sheets look.

const KEY = "tickmesh.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const heard: (() => void)[] = [];

function chosen(): string | null {
  const kept = localStorage.getItem(KEY);
  return kept === "light" || kept === "dark" ? kept : null;
}

export function isDark(): boolean {
  return (chosen() ?? (dark.matches ? "dark" : "light")) === "dark";
}

function apply(): void {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  for (const one of heard) one();
}

export function onTheme(listener: () => void): void {
  heard.push(listener);
}

export function startTheme(button: HTMLElement): void {
  apply();
  dark.addEventListener("change", apply);
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, isDark() ? "light" : "dark");
    apply();
  });
}
