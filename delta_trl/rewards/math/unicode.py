"""Unicode mathematics as LaTeX."""

import re
import unicodedata


_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ",
    "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ",
    "phi": "φϕ", "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ",
    "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω", "Sigma": "Σ",
}  # fmt: skip
_SYMBOLS = {
    "infty": "∞", "times": "×", "cdot": "·⋅∙•", "div": "÷", "pm": "±", "mp": "∓", "le": "≤⩽", "ge": "≥⩾", "ne": "≠",
    "cup": "∪", "cap": "∩", "in": "∈", "setminus": "∖", "emptyset": "∅", "sqrt": "√", "to": "→", "int": "∫",
    "sum": "∑", "prod": "∏", "approx": "≈", "equiv": "≡", "vee": "∨", "wedge": "∧", "neg": "¬", "partial": "∂",
    "notin": "∉", "Rightarrow": "⇒", "iff": "⇔", "langle": "⟨〈", "rangle": "⟩〉", "lfloor": "⌊", "rfloor": "⌋",
    "lceil": "⌈", "rceil": "⌉", "mid": "∣", "dots": "…⋯",
    "mathbb{R}": "ℝ", "mathbb{Z}": "ℤ", "mathbb{Q}": "ℚ", "mathbb{N}": "ℕ", "mathbb{C}": "ℂ",
}  # fmt: skip
_COMMAND_OF = {ord(c): f"\\{name} " for table in (_GREEK, _SYMBOLS) for name, chars in table.items() for c in chars}
_COMMAND_OF |= {ord("°"): r"^{\circ}", ord("−"): "-", ord("–"): "-", ord("⁄"): "/", ord("′"): "'", ord("、"): ","}
_COMMAND_OF |= {ord("∛"): r"\sqrt[3]", ord("∜"): r"\sqrt[4]"}
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋"
_ROOT = re.compile(r"([√∛∜]) ?(\d+(?:\.\d+)?)")
_RAISED_OR_LOWERED = re.compile(f"[{_RAISED}]+|[{_LOWERED}]+")


def from_unicode(text: str) -> str:
    """Unicode mathematics as ASCII LaTeX. Plain NFKC would read 2½ as 21/2 and x² as x2, hence the order."""
    text = _RAISED_OR_LOWERED.sub(
        lambda m: ("^{" if m[0][0] in _RAISED else "_{") + unicodedata.normalize("NFKC", m[0]) + "}", text
    )
    text = _ROOT.sub(r"\1{\2}", text)  # √15 is the root of all of 15
    text = text.translate(_COMMAND_OF)
    characters = []
    for character in text:
        category = unicodedata.category(character)
        if category == "Cf":  # zero-width and direction marks
            continue
        if category == "No" and unicodedata.decomposition(character).startswith("<fraction>"):
            over, under = unicodedata.normalize("NFKC", character).split("⁄")
            characters.append(rf"\frac{{{over}}}{{{under}}}")
        elif category == "Nd":
            characters.append(str(unicodedata.decimal(character)))
        else:
            characters.append(character)
    return unicodedata.normalize("NFKC", "".join(characters)).translate(_COMMAND_OF)
