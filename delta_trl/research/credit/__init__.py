"""Does a way of credit find the tokens that decide? Scored without training, on a made task where they are known."""
