"""Does a method give more weight to the tokens that decide? Scored without training, on a made task where they are known."""
