"""Methods × seeds on a made task: `settings` says which, `runner` runs them, `analysis` and `plots` read the records."""
