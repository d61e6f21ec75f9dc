"""The training methods, one file each. `names` lists them."""
