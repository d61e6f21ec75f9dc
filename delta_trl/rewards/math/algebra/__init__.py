"""Two LaTeX answers as mathematics: parsed, looked through for undone work, compared by value. For the workers only:
it imports sympy and math-verify, which cost a second and hold on to what they parsed."""
