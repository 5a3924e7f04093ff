"""The words that tasks are made of; after a space each is one token of SmolLM2's tokenizer, so no form is favoured."""

from __future__ import annotations

NOUNS = tuple(
    """
    apple anchor arrow basket beach bell bottle bread bridge butter button cabin candle canvas carpet castle chain chair
    cheese cherry clock cloud coffee copper cotton crown curtain desert diamond drum engine feather fence fire flower
    forest garden glass glove gold grain grass hammer harbor helmet honey island jacket jewel kettle kitchen ladder lamp
    leather lemon letter mirror mountain needle ocean onion orange oven paint paper pearl pencil pepper piano pillow
    plate pocket potato powder river rocket roof rope salt sand school shadow shell ship silk silver smoke snow soap
    spoon steel stone storm stove sugar table temple tower train trumpet tunnel valley violin wagon wall water wheel
    window wine winter wire wood wool yellow
    """.split()
)
ADJECTIVES = tuple(
    """
    brave calm clever cold dark eager early fast fierce gentle giant grand happy heavy hidden honest humble kind large
    lazy light little lonely loud lucky modern narrow nervous noble old pale patient plain polite proud quick quiet
    rapid rare rich rough sharp short shy silent simple slow small smart smooth soft strange strong sweet swift tall
    tiny tired warm weak wild wise young
    """.split()
)
ANIMALS = tuple(
    """
    ant bear bee bird bull camel cat cow crab crow deer dog dragon duck eagle elephant fish fox frog goat goose hawk
    horse lion lizard monkey mouse owl pig rabbit rat seal shark sheep snake spider tiger turtle whale wolf worm zebra
    """.split()
)
