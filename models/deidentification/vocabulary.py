"""Closed word classes that the rules use: cues, head words, and proper nouns that identify nobody.

The lists describe English as spoken in Australia, not particular sentences. All are lower case.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[str]:
    return frozenset(phrase.strip() for phrase in text.replace("\n", " ").split(";"))


MONTHS = {
    name: i % 12 + 1
    for i, name in enumerate(
        "january february march april may june july august september october november december"
        " jan feb mar apr may jun jul aug sep oct nov dec".split()
    )
} | {"sept": 9}
WEEKDAYS = _words(
    "monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays"
    " fridays saturdays sundays"
)

# Before a name they belong to it, because many of them tell a person's gender.
TITLES = _words(
    "doctor dr mr mrs ms miss mister professor prof aunty auntie aunt uncle father sister brother"
    " sergeant constable senator magistrate justice judge matron pastor reverend rev imam rabbi"
    " captain colonel major corporal inspector detective principal councillor nurse sir dame lady"
    " granny nanna grandma grandpa pop nan pa nonna yiayia opa oma cousin nurse deacon bishop"
    " superintendent commissioner minister president elder coach"
)
KIN = _words(
    "mum mother mom dad father husband wife partner son daughter aunty auntie aunt uncle"
    " cousin nephew niece nan nanna grandma grandmother grandfather grandpa pop friend friends"
    " mate mates boyfriend girlfriend ex neighbour neighbor brother sister brother-in-law twin"
    " twins baby kid kids eldest youngest stepdad stepmum stepson stepdaughter fiance fiancee"
    " flatmate housemate roommate granddaughter grandson godmother bestie mentor sponsor lawyer"
    " solicitor barrister teacher boss manager supervisor caseworker worker counsellor"
    " psychologist psychiatrist therapist nurse doctor gp social-worker keyworker carer"
    " colleague coworker bloke fella guy lady woman man girl boy lad chap person dog cat puppy"
    " kelpie greyhound horse budgie priest minister landlord landlady receptionist registrar"
    " specialist surgeon midwife facilitator coordinator chaplain"
)
NAMING = _words("named called name name's names nickname nicknamed dubbed")
MEETING = _words(
    "told tell asked ask met meet saw see rang ring knew know married marry dated thanked"
    " thank hugged hug miss missed trust trusted visit visited there's here's named helped"
)
SAYING = _words(
    "said says goes told tells asked asks reckons reckoned thinks rang rings laughed laughs"
    " cried cries replied texted emailed knew knows taught ran runs came comes took gave used"
    " sat wanted wants started introduced suggested explained believes loves loved drove lives"
    " lived left stayed helped helps saw heard was is had has did does who would went got met"
    " works worked"
)
SPEECH = _words(
    "said says say goes told tells asked asks reckons reckoned thought thinks rang rings"
    " called calls laughed laughs cried replied answered yelled whispered texted texts emailed"
    " messaged knew knows taught teaches ran runs met got gets came comes went took takes gave"
    " gives used sat sits looked looks wanted wants started introduced suggested explained"
    " mentioned believes believed loves loved passed died drove drives lives lived moved left"
    " stayed helped helps saw sees heard who who's whose whom does did is was has had would"
    " could won't can't"
)
COMPANION = _words(
    "with and told asked met saw rang called knew married dated thanked helped hugged named"
)
PLACE_PREPOSITIONS = _words(
    "in from near to at around outside via through towards into across past beyond of out over"
    " up down off between leaving left behind"
)
STAYING = _words(
    "was were been is be am worked working work stayed stay staying studied study studying"
    " started lived living up down out over back volunteered taught trained placement job nurse"
    " teacher patient"
)
MOTION = _words(
    "moved move moving went go going gone came come back drove drive driving down up out over home"
    " flew fly sent transferred travelled relocated returned walked live lived living grew raised"
    " born based"
)
INSIDE = _words("in near outside around into via beyond across")

FUNCTION = _words(
    "i i'm i've i'd i'll a an the this that these those my your his her our their its it he"
    " she we they you me him us them who what when where why how which and but or so because if"
    " then than as of in on at to from by for with without about into onto over under up down"
    " out off not no yes yeah yep nah nope okay ok oh ah um uh er hmm mm mhm hm well look like"
    " just really very too also even only still again now today tomorrow yesterday tonight here"
    " there everyone everybody someone somebody anyone anybody nobody something nothing"
    " anything everything all some any each every both few many much more most other another"
    " such same own one two three four five six seven eight nine ten first second third last"
    " next before after during until since while though although maybe perhaps probably"
    " actually basically honestly obviously sure right sorry thanks thank please hello hi hey"
    " bye good great is are was were be been being am do does did done have has had having will"
    " would can could should shall may might must let lets let's get got go goes going gone"
    " went come came know think mean guess suppose reckon say said see saw tell told ask asked"
    " make made take took give gave want need feel felt try keep put there's that's it's he's"
    " she's they're we're you're what's who's where's how's here's don't didn't doesn't isn't"
    " wasn't weren't won't wouldn't can't couldn't shouldn't haven't hasn't hadn't aren't ain't"
    " gonna wanna gotta kinda sort kind lot bit mate bro love darling sweetheart buddy dude man"
    " god jesus christ lord heaven hell gosh wow anyway anyways alright righto cheers whatever"
    " whenever wherever whoever never always sometimes usually often once twice plus except"
    " instead otherwise either neither nor yet till between through interviewer participant"
    " speaker facilitator moderator researcher respondent p i"
)

# Kin terms, ranks and offices are capitalised as forms of address.
ADDRESS_FORMS = _words(
    "mum mom mummy mumma dad daddy nan nanna nana nanny gran granny grandma grandpa grandad"
    " pop poppy pa ma mama papa aunty auntie uncle sis bro son sir madam miss doc doctor nurse"
    " sister father baba nonna nonno yiayia oma opa bubba bub mam mob country elder elders"
    " dreaming lore tribunal board minister prime premier magistrate judge queen king pope"
    " mayor"
)

# --- proper nouns that identify nobody -----------------------------------------------------------

NATIONALITIES = _words(
    "australian australians aussie aussies english british american americans irish scottish"
    " welsh italian italians greek greeks lebanese vietnamese chinese japanese korean indian"
    " indians indonesian malaysian filipino filipina thai cambodian burmese karen rohingya"
    " nepali nepalese bangladeshi pakistani afghan hazara iranian persian iraqi kurdish syrian"
    " turkish turk turks egyptian arab arabs arabic somali sudanese ethiopian eritrean kenyan"
    " nigerian ghanaian african africans european europeans german germans french spanish"
    " portuguese dutch polish russian ukrainian croatian serbian bosnian macedonian albanian"
    " hungarian romanian maltese cypriot maori samoan tongan fijian islander islanders pacific"
    " torres strait aboriginal indigenous koori koorie murri noongar nyoongar palawa anangu"
    " asian asians western eastern northern southern latin mediterranean israeli palestinian"
    " zealander zealanders kiwi kiwis canadian brazilian chilean argentinian mexican colombian"
    " punjabi hindi urdu tamil tamils bengali gujarati sinhalese mandarin cantonese tagalog"
    " auslan dari farsi pashto swahili dinka yolngu pom poms pommy victorian queenslander"
    " tasmanian territorian swedish swiss norwegian danish finnish austrian belgian czech"
    " slovak bulgarian armenian georgian roma romany gypsy wog wogs anglo celtic gaelic"
    " hispanic oriental brit brits scot scots yank yanks"
)
# Peoples and languages: indirect identifiers, so flags.py reports some of them.
PEOPLES = _words(
    "wiradjuri yorta gunditjmara wurundjeri boonwurrung bunurong gunnai gunaikurnai kurnai"
    " kamilaroi gamilaraay gomeroi bundjalung yuin dharug darug eora gadigal arrernte warlpiri"
    " pitjantjatjara ngunnawal ngarrindjeri kaurna larrakia tiwi yamatji gumbaynggirr wurrung dja"
    " taungurung barkindji worimi awabakal darkinjung biripi dunghutti yugambeh jagera turrbal"
    " kalkadoon wik yidinji wakka kabi gubbi darumbal gurindji tigrinya amharic oromo nuer igbo"
    " yoruba hausa shona zulu afrikaans hebrew yiddish uyghur tibetan hmong khmer lao malay"
    " javanese cebuano telugu malayalam kannada marathi pashtun creole kriol yankunytjatjara"
    " luritja kunwinjku bininj meriam sorb"
)
RELIGIONS = _words(
    "christian christians christianity catholic catholics catholicism anglican protestant"
    " baptist methodist presbyterian pentecostal lutheran orthodox mormon mormons muslim"
    " muslims islam islamic jewish jew jews judaism hindu hindus hinduism buddhist buddhists"
    " buddhism sikh sikhs sikhism bible quran koran torah prophet allah buddha satan devil mass"
    " communion jesus christ god lord easter christmas xmas ramadan eid diwali hanukkah"
    " passover lent advent karma zen salvo salvos jehovah's jehovah scientology quaker quakers"
    " atheist bibles psalms psalm sabbath holy"
)
STATES = _phrases(
    "victoria; new south wales; queensland; tasmania; south australia; western australia;"
    " northern territory; australian capital territory; act; nsw; qld; wa; sa; nt; vic; tassie;"
    " tas; the territory; the top end; north queensland; far north queensland; territory"
)
COUNTRY = _phrases(
    "australia; oz; commonwealth of australia; earth; mars; moon; sun; world; internet; web;"
    " europe; asia; africa; south east asia; southeast asia; middle east; the middle east; the"
    " west; antarctica; pacific islands; third world; first world; second world war; first"
    " world war; world war two; world war one; world war; cold war; gulf war; third reich; down"
    " under; aus; wwii; vietnam war"
)
ACRONYMS = _words(
    "gp gps tv dvd cd pc ok id ids ed icu er er's hr it ceo cfo coo mba phd ba ma bsc diy faq"
    " pdf adhd add ptsd ocd bpd bp dbt cbt act emdr ect tms ssri ssris snri maoi aod acat acas"
    " camhs cahms cymhs amhs cmht catt cat hdu paccu dv avo ivo pso cto ctos ito mht mhrt mhcc"
    " vmiac ndis ndia lac sda sil phams pir rto tafe hsc vce atar wace qce hecs gst bas abn acn"
    " tfn crn ihi dva medicare pbs mbs mbbs rn en een nd std sti hiv aids covid sars flu usa us"
    " uk eu un who ussr nz png lgbt lgbtq lgbtqi lgbtiqa lgbtqia wrap ips ipr cpr mri ct eeg"
    " ecg mca ato afl nrl abc sbs acl mcg scg asap byo bbq rsi rsl ute mri vet vip wifi gps usb"
    " iq eq pin atm eftpos sms url kpi kpis ohs whs oh&s rap aa na ga rdo rdos loa ama ahpra"
    " racgp ranzcp aasw acmhn cpn cpns mhn fifo dido asic apra dna rna bmi iv po prn bd tds mg"
    " ml kg km g ph p.m a.m pm am ad bc nsw qld wa sa nt vic tas iv dip ii iii qr ai vr mp"
    " mps mlc pr r&d q&a ngo ngos cald cals hacc lhd lhds phn phns mhphn esl tesol asd asds odd"
    " did fnd ibs copd pcos ivf iud gerd ms cp cfs me mnd als sids fas fasd dsp jsa jn ja drs"
    " qld l p ls ps dj mc bff lol omg wtf fyi rip ra dob ur urn mrn csu pd pds ot ots sw sws"
    " rmo vmo nuc num nums anum psw psws lew lews lelan cpw mhpw mhlecc epn emt mica dhs dhhs"
    " dffh facs docs dcp dcj cps"
)
TRAINING = _words(
    "cert certificate diploma bachelor bachelors master masters honours phd year grade level stage"
    " module semester term phase tier step chapter question part section week day covid zoom"
)
INSTITUTIONS = _words(
    "imam rabbi reverend pastor sergeant constable honour officer security army navy police"
    " government parliament senate cabinet treasury ombudsman commissioner commission opposition"
    " defence customs immigration centre hospital ward unit team management admin reception payroll"
    " accounts human resources leader worker manager coordinator consultant director ceo nasa"
    " centrelink tribunal minister"
)
MEDICINES = _words(
    "zyprexa seroquel abilify risperdal clozapine clozaril clopine olanzapine quetiapine"
    " risperidone aripiprazole haloperidol haldol lithium lithicarb quilonum epilim valproate"
    " lamictal lamotrigine tegretol carbamazepine topamax zoloft sertraline prozac fluoxetine"
    " lexapro escitalopram citalopram cipramil celexa paxil paroxetine aropax luvox fluvoxamine"
    " effexor venlafaxine pristiq desvenlafaxine cymbalta duloxetine avanza mirtazapine remeron"
    " endep amitriptyline dothep wellbutrin zyban bupropion champix valium diazepam xanax"
    " alprazolam ativan lorazepam serepax oxazepam temazepam temaze normison mogadon stilnox"
    " zolpidem imovane melatonin circadin phenergan ritalin concerta vyvanse dexies"
    " dexamphetamine dexamfetamine adderall strattera largactil chlorpromazine stelazine"
    " modecate depixol clopixol acuphase invega paliperidone sustenna trinza latuda lurasidone"
    " rexulti saphris asenapine geodon ziprasidone solian amisulpride serenace cogentin"
    " benztropine inderal propranolol panadol nurofen panadeine codeine endone oxycontin"
    " oxycodone morphine methadone suboxone subutex buprenorphine buvidal naltrexone naloxone"
    " antabuse campral acamprosate ventolin metformin ozempic insulin viagra botox pethidine"
    " fentanyl ketamine thorazine nardil parnate moclobemide aurorix lyrica gabapentin"
    " pregabalin neurontin tramadol aspirin berocca webster websterpak lyrica cannabis ice"
    " speed meth heroin ecstasy lsd marijuana spravato esketamine catapres clonidine periactin"
)
BRANDS = _phrases(
    "woolworths; woolies; coles; aldi; iga; kmart; k-mart; target; big w; bunnings; myer;"
    " david jones; officeworks; ikea; jb hi-fi; harvey norman; reject shop; dan murphy's; dan"
    " murphys; bws; seven eleven; seven-eleven; mcdonald's; mcdonalds; maccas; macca's; hungry"
    " jacks; hungry jack's; kfc; red rooster; subway; domino's; dominos; nando's; starbucks;"
    " gloria jean's; krispy kreme; boost juice; milo; vegemite; tim tam; tim tams; coke; pepsi;"
    " nescafe; weet-bix; weetbix; arnott's; cadbury; nutella; red bull; gatorade; vb; xxxx;"
    " carlton draught; jim beam; jack daniel's; jack daniels; bundy; winnie blues; google;"
    " facebook; instagram; insta; tiktok; tik tok; twitter; snapchat; youtube; whatsapp;"
    " messenger; linkedin; reddit; discord; tinder; bumble; grindr; netflix; spotify; amazon;"
    " ebay; gumtree; airbnb; uber; uber eats; ubereats; didi; menulog; paypal; apple; iphone;"
    " ipad; android; samsung; nokia; microsoft; windows; word; excel; outlook; teams; zoom;"
    " skype; siri; alexa; chatgpt; xbox; playstation; nintendo; minecraft; fortnite; lego;"
    " barbie; fitbit; garmin; nike; adidas; holden; ford; toyota; commodore; falcon; mazda;"
    " hyundai; honda; nissan; subaru; kia; volvo; bmw; mercedes; volkswagen; corolla; camry;"
    " hilux; landcruiser; land cruiser; kingswood; harley; harley davidson; vespa; qantas;"
    " virgin; jetstar; tiger; telstra; optus; vodafone; nbn; australia post; auspost; myki;"
    " opal; opal card; v/line; vline; greyhound; commbank; commonwealth bank; westpac; anz;"
    " nab; bendigo bank; bupa; hcf; nib; ahm; qbe; medibank; aami; racv; nrma; racq; toll;"
    " linfox; bhp; rio tinto; dulux; hills hoist; esky; ugg; uggs; akubra; blundstones;"
    " speedos; velcro; band-aid; bandaid; kleenex; tupperware; thermomix; roomba; photoshop;"
    " powerpoint; kindle; audible; wikipedia; tesla; shell; bp; caltex; ampol; sanitarium;"
    " tattslotto; powerball; keno; tab; sportsbet; lifestyle pie; four'n twenty; chiko roll;"
    " smiling mind; headspace app; insight timer; calm app; moodgym; mood gym; daylio;"
    " moodpath; bing; safari; gmail; hotmail; yahoo; outlook; bigpond; survey monkey;"
    " surveymonkey; qualtrics; nvivo; slack; trello; sharepoint; webex; best & less; priceline;"
    " chemist warehouse; savers; vinnies; lifeblood; crocs; doona; sudoku; monopoly; scrabble;"
    " uno; jenga; wii; dettol; glen 20; dencorub; lynx; revlon"
)
PROGRAMMES = _phrases(
    "medicare; centrelink; ndis; ndia; national disability insurance scheme; national"
    " disability insurance agency; my health record; mygov; my gov; headspace; beyond blue;"
    " beyondblue; lifeline; black dog; black dog institute; sane; sane australia; kids"
    " helpline; kids help line; mensline; suicide call back service; suicide callback service;"
    " thirteen yarn; qlife; butterfly foundation; r u ok; myers-briggs; enneagram; r u ok day;"
    " are you ok day; movember; better access; mental health plan; mental health care plan;"
    " medicare card; health care card; healthcare card; gold card; white card; working with"
    " children; working with children check; working with children's check; blue card;"
    " jobseeker; job seeker; newstart; austudy; abstudy; youth allowance; jobkeeper; disability"
    " support pension; rent assistance; work for the dole; partners in recovery; personal"
    " helpers and mentors; phams; day to day living; housing first; intentional peer support;"
    " hearing voices; hearing voices network; hearing voices movement; open dialogue; wellness"
    " recovery action plan; mental health first aid; alcoholics anonymous; narcotics anonymous;"
    " gamblers anonymous; gamblers help; al-anon; alanon; smart recovery; grow; clubhouse;"
    " mental health act; privacy act; guardianship act; freedom of information; royal"
    " commission; productivity commission; burdekin; burdekin report; burdekin inquiry;"
    " richmond report; mental health review tribunal; mental health tribunal; guardianship"
    " board; mental health commission; national mental health commission; mental health week;"
    " mental health month; naidoc; naidoc week; reconciliation week; anzac; closing the gap;"
    " sorry business; sorry day; stolen generation; stolen generations; flying doctors; flying"
    " doctor; royal flying doctor service; red cross; salvation army; salvos; the salvos;"
    " vinnies; saint vincent de paul; st vincent de paul; meals on wheels; rotary; lions club;"
    " cwa; country women's association; men's shed; neighbourhood watch; triple zero; veterans"
    " affairs; veterans' affairs; department of veterans' affairs; department of health;"
    " department of housing; department of human services; child protection; office of housing;"
    " housing commission; housing department; ambulance victoria; poisons hotline; tax office;"
    " fair work; fair work commission; unions; union; liberal; labor; greens; nationals; one"
    " nation; teals; parliament; senate; treasury; cabinet; commonwealth; federal government;"
    " state government; high court; supreme court; family court; magistrates court; children's"
    " court; drug court; federal court; county court; district court; local court; coroner's"
    " court; ombudsman; human rights commission; united nations; dsm; dsm five; icd; cert four;"
    " certificate four; certificate iv; cert three; cert iii; diploma; bachelor; masters;"
    " master's; honours; bachelor of social work; bachelor of nursing; peer work; lived"
    " experience; recovery college; consumer consultant; peer support; peer support worker;"
    " code black; code grey; code blue; zen; reiki; tai chi; pilates; yoga; zumba; parkrun;"
    " park run; tough mudder; mindfulness; black saturday; black summer; port arthur; cyclone"
    " tracy; home and away; neighbours; a current affair; sixty minutes; four corners; insight;"
    " masterchef; the block; big brother; married at first sight; mafs; bluey; the wiggles;"
    " play school; star wars; star trek; harry potter; game of thrones; the simpsons; simpsons;"
    " doctor who; friends; seinfeld; law and order; lord of the rings; one flew over the"
    " cuckoo's nest; cuckoo's nest; breaking bad; snowy scheme; snowy mountains scheme; snowy"
    " hydro; first fleet; origin; state of origin; grand final; ashes; olympics; paralympics;"
    " world cup; wimbledon; facebook group; google maps; uno; wheel of fortune; alcoholics;"
    " closing the gap; native title; welcome to country; dreamtime; the dreaming; apology;"
    " covid; corona; omicron; delta; spanish flu; ok boomer; gen z; gen x; millennials;"
    " boomers; baby boomer; baby boomers; virgo; aries; taurus; gemini; scorpio; sagittarius;"
    " capricorn; aquarius; pisces; libra; valium; mardi gras; midsumma; black lives matter; me"
    " too; metoo; pride; uluru statement; voice; voice to parliament; secret santa; father"
    " christmas; santa; santa claus; easter bunny; tooth fairy; god; mother nature; murphy's"
    " law; pandora's box; catch twenty-two; catch 22; achilles heel; freud; jung; maslow;"
    " maslow's hierarchy; pavlov; yalom; buddha; jesus; einstein; shakespeare; rome; pete's"
    " sake; jack of all trades; joe blow; joe public; joe bloggs; john doe; jane doe; tom, dick"
    " and harry; uncle sam; big brother; mickey mouse; elvis; batman; superman; cinderella;"
    " humpty dumpty; rain man; stockholm syndrome; asperger's; aspergers; asperger;"
    " parkinson's; alzheimer's; alzheimers; tourette's; tourettes; crohn's; down syndrome;"
    " down's syndrome; hodgkin's; huntington's; korsakoff's; munchausen; likert; kessler; k10;"
    " k ten; rorschach; gillick; heimlich; freudian; buddhist; pm; wellbeing; i ching"
)
COLLOQUIAL_NAMES = _words("jesus christ god joe karma murphy rome bob's")  # in sayings

# --- head words ----------------------------------------------------------------------------------

ORGANISATION_HEADS = _words(
    "shed hospital clinic school college university uni institute institution service services"
    " centre center tafe church cathedral mosque temple synagogue gurdwara prison jail gaol"
    " shelter refuge hostel company surgery pharmacy chemist council shire preschool"
    " kindergarten kinder kindy foundation trust society association alliance network"
    " collective cooperative co-op mission ministries ministry parish house lodge unit ward"
    " team club league rsl primary secondary grammar academy health healthcare care practice"
    " medical aged nursing hospice department bank pub hotel tavern motel cafe restaurant"
    " bakery butchers garage motors transport constructions logistics mines mine mill meatworks"
    " abattoir factory foundry station times herald courier advertiser gazette express mail"
    " post chronicle examiner mercury news fm radio press theatre theater gallery museum"
    " library choir band orchestra harriers rovers united rangers wanderers tigers bombers"
    " swans eagles hawks magpies bulldogs roosters rabbitohs broncos corporation co-operative"
    " cooperative group partners partnership consulting legal lawyers solicitors barracks"
    " battalion regiment squadron brigade scouts guides court tribunal dental physio psychology"
    " psychiatry headspace farm gardens nursery village retirement manor terrace recovery rehab"
    " detox community housing project program programme initiative agency forum coalition"
    " council's bikers gym pool oval stadium showgrounds racecourse warehouse market markets"
    " smokehouse plant works"
)
# Without a name in front of them, words such as these do not make an organisation.
GENERIC = ORGANISATION_HEADS | _words(
    "community high primary secondary mental medical family public private regional base local"
    " general district area rural remote adult adolescent child youth acute inpatient"
    " outpatient day night peer support carer consumer national state federal city country"
    " crisis emergency intensive extended step down up early psychosis intervention prevention"
    " promotion outreach mobile women's men's children's girls boys senior junior old new big"
    " little north south east west northern southern eastern western central inner outer upper"
    " lower royal and of the for &"
)
LEADING_HEADS = _words("saint st royal our ward unit university mount lake port cape point fort")
PLACE_HEADS = _words(
    "creek river beach hill hills lake mount mountain mountains valley bay island cove point"
    " cape ridge gully flat plains range ranges forest park gardens gorge falls bridge jetty"
    " pier wharf dam reserve lagoon springs junction crossing heights vale grove estate flats"
    " towers mall plaza arcade square peninsula coast shire oval caravan lookout headland"
    " foreshore mission mob station"
)
STREET_HEADS = _words(
    "street st road rd avenue ave crescent cres parade pde drive drv lane ln court ct place pl"
    " terrace highway hwy close boulevard boulevarde blvd way esplanade grove circuit freeway"
    " promenade mews track rise laneway quay strand alley"
)
CONNECTORS = _words("of the de da di la le del van von der den al el bin ibn ben st for and")

# Words of the trade: a phrase of nothing else is a role, a course or a tool.
JARGON = _words(
    "peer worker workers work support supports recovery lived experience team leader manager"
    " senior junior coordinator consultant consumer carer plan planning health mental program"
    " programme training framework model college network hearing voices wellness wellbeing"
    " action first aid code group groups star tool approach policy practice practitioner"
    " clinical care clinician nurse unit social psych case management advisory committee board"
    " panel officer assistant director executive project advocate advocacy representative human"
    " rights resources safe space sensory modulation room family intentional trauma informed"
    " strengths based open dialogue therapy cognitive behavioural dialectical acceptance"
    " commitment mindfulness self help stress anxiety depression disorder borderline"
    " personality bipolar post traumatic crisis line outreach community inpatient outpatient"
    " adult youth aged older persons drug alcohol dual diagnosis intake triage discharge"
    " seclusion restraint order treatment involuntary voluntary tribunal hearing review"
    " complaint quality improvement research ethics study interview participant information"
    " sheet consent form"
)
# A name before one of these is that of a thing known to everybody: the Richmond report.
PUBLIC_TAILS = _words(
    "app apps card brand syndrome disease scale inventory diet report inquiry enquiry act"
    " scheme model method approach test vaccine principle principles criteria theory war wars"
    " revolution virus"
)
CULTURE = _words(
    "song songs singer band bands album albums movie movies film films book books novel author"
    " listened listening concert concerts gig podcast series episode poem poet painting actor read"
    " reading lyrics record records netflix spotify youtube quote quoted"
)
# Spoken words that the frequency lists lack, or that they count as rare.
SPOKEN = _words(
    "telly bloke blokes arvo servo barbie brekkie footy mish uni rego ute ambo ambos copper"
    " coppers bikie bikies bogan bogans dole doley esky hubby missus mozzie pokies smoko snag"
    " snags sook stubby stubbies tradie tradies whinge whinging yakka meds med psych psychs"
    " timesheet timesheets ensuite ensuites cert certs mhm hmm yeah yep nah nup reckon reckoned"
    " gonna wanna gotta kinda sorta dunno cos coz lemme gimme innit heaps sus doco docos vego"
    " bikkie bikkies chockie choccy lollies lolly daggy dag dags dunny thongs trackies tracky"
    " boardies budgie bub bubs fella fellas mob mozzies prezzie pressie relo rellies relos"
    " sanger sunnies swag swags tinnie tinnies tinny togs undies bathers yobbo yonks ta strewth"
    " crikey dinkum deadset ropeable stoked knackered stuffed chuffed gutted arse arsehole"
    " bastard bugger buggered bloody shit shitty fuck fucked fucking crap piss pissed wanker"
    " dickhead smack goon slab durry durries ciggie ciggies smokes bong cone cones weed ice"
    " benzo benzos schizo schizoaffective psychosis hypomania hypomanic dysphoria"
    " neurodivergent neurotypical neurodiverse deinstitutionalisation inpatient outpatient"
    " caseload casework caseworker caseworkers keyworker telehealth wellbeing onboarding"
    " lanyard lanyards handover debrief debriefs debriefed codesign webinar webinars podcast"
    " podcasts email emails app apps selfie selfies vape vapes vaping meme memes wifi laptop"
    " hoodie beanie lockdown lockdowns covid rona carer carers respite dosette bipolar"
    " borderline anorexia bulimia autistic autism dyslexia dyslexic lycra denim latex ketchup"
    " moussaka lasagne lasagna spag bol sushi kebab kebabs laksa pho baklava souvlaki"
)
SPORT = _words(
    "footy football afl nrl barrack barracked barracks barracking supporter supporters premiership"
    " scarf jumper guernsey beanie cricket"
)
